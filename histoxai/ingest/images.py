"""Image files to arrays: the one place that decides what becomes of odd ones (docs/ingest.md has the table)."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # no other decoder runs, whatever a file claims to be
MAX_PIXELS = 100_000_000  # of one file: 300 MB decoded; larger ones are slides
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_REMEDIES = {
    "L": "is grayscale; H&E needs colour: export it as RGB from the original",
    "CMYK": "is CMYK; convert it to RGB with its colour profile first (`magick in.tif -colorspace sRGB out.png`)",
}
_MASKS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "RGB")

# Pillow warns of what is refused here with a remedy: 89 megapixels, damaged tags.
warnings.filterwarnings("ignore", module=r"PIL\.")


def size_of(path: Path) -> tuple[int, int]:
    """Height and width as `decode` gives them (EXIF orientation applied), from the header.

    Raises InputRefused for what `decode` would refuse, as far as the header tells.
    """
    with _open(path) as image:
        _require_colour(path, image)
        return _oriented(path, image)


def mask_size_of(path: Path) -> tuple[int, int]:
    """Height and width of a mask as `decode_mask` gives it, from the header; raises InputRefused like it."""
    with _open(path) as image:
        if image.mode not in _MASKS:
            raise InputRefused(
                f"{printable(path)}: has mode {image.mode}; expected a label image (8 or 16 bit, one value)"
            )
        if image.format == "JPEG" or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
            raise InputRefused(f"{printable(path)}: is compressed as JPEG, which makes up values; save masks as PNG")
        if image.mode == "RGB" and (bits := _bits(image)) > 8:  # of which Pillow keeps the upper 8
            raise InputRefused(
                f"{printable(path)}: has three channels of {bits} bits, which cannot be read; save one channel"
            )
        return _oriented(path, image)


def decode(path: Path) -> np.ndarray:
    """(H, W, 3) uint8. Transparent pixels are blended on white glass, palettes converted, EXIF orientation applied.

    Raises InputRefused for grayscale, CMYK, 16-bit, several pages, more than 100 megapixels, and broken files.
    """
    with _open(path) as image:
        _require_colour(path, image)
        try:
            turned = _upright(image)
            # RGBA is common in exported tiles
            if turned.mode != "RGB":
                layer = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
            return np.asarray(turned)
        except _BROKEN as error:
            raise _undecodable(path, error) from error


def decode_mask(path: Path) -> np.ndarray:
    """(H, W) int64, the numbers in a label image: palette indices, bits, 8 or 16 bit gray, or three equal channels.

    Raises InputRefused for colours, which are no numbers, and for broken files.
    """
    mask_size_of(path)
    with _open(path) as image:
        try:
            values = np.asarray(_upright(image)).astype(np.int64)
        except _BROKEN as error:
            raise _undecodable(path, error) from error
        if values.ndim == 3:
            if (values != values[..., :1]).any():
                raise InputRefused(
                    f"{printable(path)}: is a colour image; expected one number a pixel: save class numbers"
                )
            values = values[..., 0]
        return values // _stretch(path, image.mode)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=FORMATS)
        pages = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise _too_large(path, "Pillow's own limit") from error
    except _BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no PNG, JPEG, TIFF or BMP"
        raise InputRefused(
            f"{printable(path)}: is not an image that can be read ({reason}); remove or replace it"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"{image.width} x {image.height} px")
    if image.width * image.height == 0:
        raise InputRefused(f"{printable(path)}: has no pixel ({image.width} x {image.height}); remove or replace it")
    if pages > 1:
        raise InputRefused(f"{printable(path)}: has {pages} pages or frames; save each as a file of its own")
    return image


def _require_colour(path: Path, image: Image.Image) -> None:
    if (bits := _bits(image)) > 8:
        raise InputRefused(f"{printable(path)}: has {bits} bits a channel; expected 8-bit RGB: scale it down first")
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        words = _REMEDIES.get("L" if image.mode in ("1", "LA") else image.mode, "cannot be used; convert it to RGB")
        raise InputRefused(f"{printable(path)}: has mode {image.mode}; expected 8-bit RGB: it {words}")


def _bits(image: Image.Image) -> int:
    # Pillow opens 16-bit RGB as RGB and drops the lower byte without a word
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return int(max(np.atleast_1d(tags.get(258, 8))))
    tiles = getattr(image, "tile", None)
    deep = image.mode.startswith("I") or (tiles and ";16" in str(tiles[0][3]))
    return 16 if deep else 8


def _early_exif(image: Image.Image) -> bool:
    # A PNG may carry EXIF behind its pixels, which no look at the header finds: it does not count
    return image.format != "PNG" or "exif" in image.info


def _upright(image: Image.Image) -> Image.Image:
    early = _early_exif(image)
    image.load()
    return ImageOps.exif_transpose(image) if early else image


def _oriented(path: Path, image: Image.Image) -> tuple[int, int]:
    try:
        tags = getattr(image, "tag_v2", None)
        if tags is not None:  # newer Pillow swaps a TIFF's sides itself, older ones do not
            width, height, orientation = tags[256], tags[257], tags.get(_ORIENTATION, 1)
        else:
            (width, height) = image.size
            orientation = image.getexif().get(_ORIENTATION, 1) if _early_exif(image) else 1
    except _BROKEN as error:
        raise _undecodable(path, error) from error
    return (width, height) if orientation in _TURNED else (height, width)


def _stretch(path: Path, mode: str) -> int:
    # gray PNGs of 2 and 4 bits are stretched to 0..255 by Pillow; their numbers are what counts
    with open(path, "rb") as file:
        head = file.read(25)
    return {2: 85, 4: 17}.get(head[24], 1) if mode == "L" and head[:4] == b"\x89PNG" else 1


def _undecodable(path: Path, error: Exception) -> InputRefused:
    return InputRefused(f"{printable(path)}: does not decode ({error}); remove or replace it")


def _too_large(path: Path, what: str) -> InputRefused:
    limit = MAX_PIXELS // 1_000_000
    return InputRefused(f"{printable(path)}: is larger than {limit} megapixels ({what}); cut it into tiles first")
