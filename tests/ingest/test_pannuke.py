"""The PanNuke format: what is read, and how bad folds are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.pannuke import PanNukeFormat
from histoxai.settings import Ingest
from tests.conftest import run, write_pannuke


@pytest.mark.parametrize("spelling", ["short", "long"])
@pytest.mark.parametrize("dtype", ["uint8", "float64", "int32"])
def test_pannuke(tmp_path: Path, spelling: str, dtype: str) -> None:
    root = write_pannuke(tmp_path / "p", spelling=spelling, dtype=dtype)
    assert PanNukeFormat.recognises(root)
    reader = PanNukeFormat(root, Ingest())
    assert reader.index.split == [1] * 8 + [2] * 4
    assert (reader.index.mpp, reader.index.patch_id[5]) == (0.25, "fold2/images#1")
    images, targets = reader.read(3, 6)
    assert images.dtype == np.uint8
    assert targets is not None
    plain = PanNukeFormat(write_pannuke(tmp_path / "plain"), Ingest())
    want_images, want_targets = plain.read(3, 6)
    assert np.array_equal(images, want_images)
    assert np.array_equal(targets, want_targets)
    assert targets[:, 1, :4, :4].all()
    assert targets[:, 1].sum() == 3 * 16
    other = PanNukeFormat(root, Ingest(tumor=("epithelial",), non_tumor=("neoplastic", "connective")))
    swapped = other.read(3, 6)[1]
    assert swapped is not None
    assert not swapped[:, 0].any()
    assert np.array_equal(swapped[:, 1], want_targets.max(axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 255.0, "not whole numbers"),
        (lambda x: x.astype(np.int32) - 300, "not whole numbers"),
    ],
)
def test_pannuke_values_out_of_range_are_refused(tmp_path: Path, change: Callable, message: str) -> None:
    root = write_pannuke(tmp_path / "p")
    np.save(root / "fold2" / "images.npy", change(np.load(root / "fold2" / "images.npy")))
    outcome = run("ingest", root, "-o", tmp_path / "o.zarr")
    assert outcome.code == 3
    assert message in outcome.err
    assert "fold2/images.npy" in outcome.err
    assert not (tmp_path / "o.zarr").exists()


def test_bad_pannuke_is_refused(tmp_path: Path) -> None:
    root = write_pannuke(tmp_path / "p")
    assert "no nucleus type 'nerve'" in run("ingest", root, "-o", tmp_path / "o", "--tumor", "nerve").err
    assert run("ingest", root, "-o", tmp_path / "o", "--classes", "A").code == 3
    np.save(root / "fold1" / "masks.npy", np.zeros((4, 64, 64, 5), np.uint8))
    assert "expected (4, 64, 64, 6)" in run("ingest", root, "-o", tmp_path / "o").err
    np.save(root / "fold1" / "masks.npy", np.zeros((0, 64, 64, 6), np.uint8))
    np.save(root / "fold1" / "images.npy", np.zeros((0, 64, 64, 3), np.uint8))
    assert "holds no patch" in run("ingest", root, "-o", tmp_path / "o").err
    (root / "Fold 2").mkdir()
    assert "has 0 images.npy" in run("ingest", root, "-o", tmp_path / "o").err
    for name in ("images", "masks"):
        np.save(root / "Fold 2" / f"{name}.npy", np.load(root / "fold2" / f"{name}.npy"))
    assert "is a second fold 2" in run("ingest", root, "-o", tmp_path / "o").err
    (root / "fold1" / "masks.npy").unlink()
    assert "expected one of each" in run("ingest", root, "-o", tmp_path / "o", "--format", "pannuke").err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[..., [5, 0, 1, 2, 3, 4]], "channel 0 covers the most, (8|9).% of the pixels"),  # background first
        (lambda m: np.concatenate([m[..., :5], 1 - m[..., 5:]], -1), "channel 5 must be the background"),  # inverted
        (lambda m: m * np.array([1, 1, 1, 1, 1, 0], m.dtype), "channel 5 must be the background"),  # empty
    ],
)
def test_a_last_channel_that_is_not_the_background_is_refused(tmp_path: Path, change: Callable, words: str) -> None:
    path = write_pannuke(tmp_path / "p") / "fold2" / "masks.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(InputRefused, match=words) as error:
        PanNukeFormat(tmp_path / "p", Ingest())
    assert "neoplastic, inflammatory, connective, dead, epithelial, background" in str(error.value)
    assert str(path) in str(error.value)
