"""Transparency of images: blended on white, or refused where nothing would be left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.folder import FolderFormat
from histoxai.ingest.images import decode_image
from histoxai.settings import Ingest

PICTURE = np.random.default_rng(0).integers(1, 255, (24, 32, 3), np.uint8)


def rgba(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([PICTURE, alpha.astype(np.uint8)]))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_that_are_transparent_everywhere_are_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / "A/s1").mkdir(parents=True)
    path = tmp_path / f"A/s1/x.{ending}"
    rgba(np.zeros((24, 32))).save(path)
    with pytest.raises(InputRefused, match=rf"A/s1/x\.{ending}: is transparent everywhere, .* without the alpha"):
        FolderFormat(tmp_path, Ingest()).read(0, 1)
    alpha = np.zeros((24, 32))
    alpha[5, 7] = 255  # one pixel is enough
    rgba(alpha).save(path)
    pixels, _ = FolderFormat(tmp_path, Ingest()).read(0, 1)
    want = np.full((24, 32, 3), 255, np.uint8)
    want[5, 7] = PICTURE[5, 7]
    assert np.array_equal(pixels[0], want)


@pytest.mark.parametrize("colour", [(0, 0, 0), (9, 200, 30)])
def test_the_transparent_colour_of_a_png_is_white(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    values = PICTURE.copy()
    values[:12] = colour
    Image.fromarray(values).save(tmp_path / "x.png", transparency=colour)
    want = values.copy()
    want[(values == colour).all(-1)] = 255
    assert (want[:12] == 255).all()
    assert np.array_equal(decode_image(tmp_path / "x.png"), want)


def test_a_palette_that_is_transparent_everywhere_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((8, 8), np.uint8))
    image.putpalette([90, 20, 60, 200, 100, 150])
    image.save(tmp_path / "x.png", transparency=0)
    with pytest.raises(InputRefused, match=r"x\.png: is transparent everywhere"):
        decode_image(tmp_path / "x.png")
