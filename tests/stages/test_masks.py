"""`masks` as users run it: the probabilities, and patches of another scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import CLASSES, Mini, done, run


def test_masks_are_the_segmenters_sigmoid(mini: Mini) -> None:
    import torch

    from histoxai.networks.inference import to_tensor
    from histoxai.networks.run_folder import open_run
    from histoxai.networks.weights import load_model

    store, patches = Store(mini.masks), Patches(mini.balanced)
    model = load_model(open_run(mini.seg, "segmenter"), torch.device("cpu"))
    rows = store.read("row")[:3]
    with torch.no_grad():
        want = torch.sigmoid(model(to_tensor(patches.read(rows))))
    np.testing.assert_allclose(store.read("probability", 0, 3), want.numpy(), atol=1e-5)


def test_masks_warn_about_another_scale_and_can_rescale(mini: Mini, tmp_path: Path) -> None:
    done("ingest", mini.diagset, "-o", tmp_path / "p", "--classes", ",".join(CLASSES), "--mpp", 0.5)
    done("augment", tmp_path / "p", "-o", tmp_path / "b")
    plain = run("masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "plain")
    assert "learned at 0.25 micrometres per pixel and the patches have 0.5" in plain.err
    rescaled = run("masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "rescaled", "--rescale")
    assert "warning" not in rescaled.err
    a, b = (Store(tmp_path / n).read("probability") for n in ("plain", "rescaled"))
    assert a.shape == b.shape
    assert np.abs(a - b).max() > 0.01
    again = run("masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "plain", "--rescale")
    assert again.code == 3
    assert "scale = 1.0, asked for 2.0" in again.err
