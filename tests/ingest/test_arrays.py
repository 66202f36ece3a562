"""Arrays of images, labels and masks: what would give wrong numbers is refused, what is missing is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.npy import NpyFormat
from histoxai.settings import Ingest

IMAGES = np.full((4, 8, 8, 3), 200, np.uint8)
TUMOR = np.zeros((4, 8, 8), np.uint8)
TUMOR[:, 1:4, 1:5] = 1


def folder(root: Path, **arrays: np.ndarray) -> Path:
    """A folder of npy files; images of one colour where none are given."""
    for name, values in {"images": IMAGES, **arrays}.items():
        np.save(root / f"{name}.npy", values)
    return root


def test_planes_that_fill_every_pixel_are_refused(tmp_path: Path) -> None:
    for full in (1, 255):
        folder(tmp_path, masks=np.stack([1 - TUMOR, TUMOR], 1) * np.uint8(full))
        with pytest.raises(InputRefused, match=r"fill every pixel, as \(background, tumor\)(.|\n)*save masks\[:, 1\]"):
            NpyFormat(tmp_path, Ingest())


def test_both_remedies_for_planes_that_fill_every_pixel(tmp_path: Path) -> None:
    planes = NpyFormat(folder(tmp_path, masks=TUMOR), Ingest()).read(0, 4)[1]
    assert planes is not None
    assert planes.sum((2, 3)).tolist() == [[12, 0]] * 4
    numbers = np.where(TUMOR, 1, 2)
    read = NpyFormat(folder(tmp_path, masks=numbers), Ingest(class_map=("1=tumor", "2=non-tumor"))).read(0, 4)[1]
    assert read is not None
    assert read.sum((2, 3)).tolist() == [[12, 52]] * 4


def test_planes_with_background_in_one_patch_are_read(tmp_path: Path) -> None:
    masks = np.stack([TUMOR, 1 - TUMOR], 1)  # annotated to the last pixel, but for one patch
    masks[3, 1] = 0
    planes = NpyFormat(folder(tmp_path, masks=masks), Ingest()).read(0, 4)[1]
    assert planes is not None
    assert planes.sum((2, 3)).tolist() == [[12, 52]] * 3 + [[12, 0]]
