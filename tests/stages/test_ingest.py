"""`ingest` as users run it; formats are in tests/ingest/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histoxai.core.errors import UsageError
from histoxai.settings import Ingest
from histoxai.store.patches import Patches
from tests.conftest import Mini, run


def test_ingest_keeps_every_pixel_and_label(mini: Mini) -> None:
    patches = Patches(mini.patches)
    for i in (0, 17, 50, len(patches) - 1):
        scan, name, rest = patches.patch_id[i].split("/")
        stem, number = rest.split("#")
        image = np.load(mini.diagset / "blobs/S/20x" / scan / name / f"{stem}.npy")[int(number)]
        assert np.array_equal(patches.images[i], image)
        assert patches.classes[patches.label[i]] == name
        assert patches.group[i] == scan


def test_a_magnification_is_no_resolution(tmp_path: Path) -> None:
    for number in (10, 20.0, 40):
        with pytest.raises(UsageError, match=r"looks like a magnification; .*20x is about 0\.5"):
            Ingest(mpp=number)
    assert [Ingest(mpp=m).mpp for m in (0.25, 0.5, 2, 5, 8, 10.1, 19.9)] == [0.25, 0.5, 2, 5, 8, 10.1, 19.9]
    outcome = run("ingest", tmp_path, "-o", tmp_path / "o.zarr", "--mpp", 20)
    assert outcome.code == 2
    assert "--mpp 20: looks like a magnification" in outcome.err
