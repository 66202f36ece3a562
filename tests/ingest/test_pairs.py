"""Images with masks beside them: what of a pair has to agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.pairs import PairsFormat
from histoxai.settings import Ingest

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[10:30, 10:40] = 255


def save(path: Path, values: np.ndarray, orientation: int) -> None:
    path.parent.mkdir(exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)


@pytest.mark.parametrize(("of_image", "of_mask"), [(3, 0), (0, 3), (6, 0), (6, 8), (3, 1)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_orientations_of_image_and_mask_differ(tmp_path: Path, of_image: int, of_mask: int, ending: str) -> None:
    save(tmp_path / f"images/x.{ending}", PICTURE, of_image)
    save(tmp_path / f"masks/x.{ending}", MASK, of_mask)
    words = rf"masks/x\.{ending}: has EXIF orientation {of_mask or 1} but .*images/x\.{ending} has {of_image or 1} "
    with pytest.raises(InputRefused, match=words):
        PairsFormat(tmp_path, Ingest())


@pytest.mark.parametrize(("of_image", "of_mask"), [(0, 1), (1, 0), (3, 3), (0, 9)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_orientations_of_image_and_mask_agree(tmp_path: Path, of_image: int, of_mask: int, ending: str) -> None:
    save(tmp_path / f"images/x.{ending}", PICTURE, of_image)
    save(tmp_path / f"masks/x.{ending}", MASK, of_mask)
    pixels, planes = PairsFormat(tmp_path, Ingest()).read(0, 1)
    assert planes is not None
    step = -1 if of_image == 3 else 1
    assert np.array_equal(pixels[0], PICTURE[::step, ::step])
    assert np.array_equal(planes[0, 0] * 255, MASK[::step, ::step])
