"""Checks of arrays of images: values that would be black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.npy import NpyFormat
from histoxai.ingest.formats.pannuke import PanNukeFormat
from histoxai.settings import Ingest
from tests.conftest import write_pannuke

ROUNDED = np.random.default_rng(0).integers(0, 2, (20, 8, 8, 3))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_images_of_0_and_1_alone_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "images.npy", ROUNDED.astype(dtype))
    with pytest.raises(InputRefused, match=r"images.npy: values are 0 and 1 alone.*multiply them by 255, then round"):
        NpyFormat(tmp_path, Ingest())


def test_folds_of_0_and_1_alone_are_refused(tmp_path: Path) -> None:
    path = write_pannuke(tmp_path) / "fold1" / "images.npy"
    np.save(path, (np.load(path) / 255).round())
    with pytest.raises(InputRefused, match="values are 0 and 1 alone"):
        PanNukeFormat(tmp_path, Ingest())


def test_dark_patches_before_others_are_read(tmp_path: Path) -> None:
    images = ROUNDED.astype(np.uint8)
    images[18, 0, 0] = 77
    np.save(tmp_path / "images.npy", images)
    assert np.array_equal(NpyFormat(tmp_path, Ingest()).read(0, 20)[0], images)
    np.save(tmp_path / "images.npy", np.zeros_like(images))
    assert NpyFormat(tmp_path, Ingest()).read(0, 20)[0].max() == 0
