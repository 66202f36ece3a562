"""Decode image files; unusual ones are accepted or refused here alone (docs/ingest.md has the table)."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text
from histoxai.ingest.stored_values import (
    bits_per_channel,
    grey_scale,
    is_lossy_webp,
    require_black_zero,
    require_lossless,
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".j2k"}
PILLOW_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # no other decoder of Pillow runs, whatever a file claims to be
_FORMATS_BY_SUFFIX = {".webp": ("WEBP",), ".jp2": ("JPEG2000",), ".j2k": ("JPEG2000",)}  # but those that the name says
MAX_PIXELS = 100_000_000  # of one file, 300 MB when decoded; larger images are slides
_ORIENTATION = 0x0112
_SWAPPED_SIDES = (5, 6, 7, 8)  # EXIF orientations that swap height and width
DECODE_ERRORS = (
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
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "RGB")


# Pillow warns of 89 megapixels and damaged tags; both are refused below, with a remedy.
warnings.filterwarnings("ignore", module=r"PIL\.")


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width as `decode_image` gives them (EXIF orientation applied), from the header.

    Raises InputRefused for images that `decode_image` refuses, as far as the header tells.
    """
    with _open(path) as image:
        _require_colour(path, image)
        return _upright_size(path, image)


def mask_size(path: Path, *, indices_are_named: bool = True) -> tuple[int, int]:
    """Return height and width of a mask as `decode_mask` gives it, from the header; raises InputRefused as it does.

    Where nothing names the indices of palettes, raises InputRefused also for those whose index 0 is not black.
    """
    with _open(path) as image:
        if image.mode not in _MASK_MODES:
            raise InputRefused(
                f"{escape_text(path)}: has mode {image.mode}; expected a label image (8 or 16 bit, one value)"
            )
        require_lossless(path, image)
        if not indices_are_named:
            require_black_zero(path, image)
        if image.mode == "RGB" and (bits := bits_per_channel(image)) > 8:  # Pillow keeps only the upper 8
            raise InputRefused(
                f"{escape_text(path)}: has three channels of {bits} bits, which cannot be read; save one channel"
            )
        return _upright_size(path, image)


def orientation(path: Path) -> int:
    """Return the EXIF orientation that is applied to an image or mask, 1 where it is upright, from the header."""
    with _open(path) as image:
        try:
            return _orientation(image)
        except DECODE_ERRORS as error:
            raise _undecodable(path, error) from error


def decode_image(path: Path) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8.

    Transparent pixels are blended on white, palettes are converted, and the EXIF orientation is applied.

    Raises InputRefused for grayscale, CMYK, 16-bit, several pages, more than 100 megapixels, images that are
    transparent everywhere, and broken files.
    """
    with _open(path) as image:
        _require_colour(path, image)
        try:
            upright = load_upright(image)
            if upright.mode == "RGB" and "transparency" not in upright.info:  # a PNG may name a transparent colour
                return np.asarray(upright)
            layer = upright.convert("RGBA")  # common in exported tiles
            blended = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        except DECODE_ERRORS as error:
            raise _undecodable(path, error) from error
    if not layer.getchannel("A").getbbox():
        raise InputRefused(
            f"{escape_text(path)}: is transparent everywhere, which would be white; remove it, or save its colours "
            "without the alpha channel"
        )
    return np.asarray(blended)


def decode_mask(path: Path) -> np.ndarray:
    """Decode a label image to its numbers, (H, W) int64.

    They are palette indices, bits, 8 or 16 bit gray, or three equal channels. Raises InputRefused for colours, which
    are not numbers, and for broken files.
    """
    mask_size(path)
    with _open(path) as image:
        try:
            scale = grey_scale(path, image)
            values = scale.stored(np.asarray(load_upright(image))).astype(np.int64)
        except DECODE_ERRORS as error:
            raise _undecodable(path, error) from error
        if values.ndim == 3:
            if (values != values[..., :1]).any():
                raise InputRefused(
                    f"{escape_text(path)}: is a colour image; expected one number a pixel: save class numbers"
                )
            values = values[..., 0]
        return values


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=(*PILLOW_FORMATS, *_FORMATS_BY_SUFFIX.get(path.suffix.lower(), ())))
        pages = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise _too_large(path, "Pillow's own limit") from error
    except DECODE_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no PNG, JPEG, TIFF or BMP"
        raise InputRefused(
            f"{escape_text(path)}: is not an image that can be read ({reason}); remove or replace it"
        ) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path, f"{image.width} x {image.height} px")
    if image.width * image.height == 0:
        raise InputRefused(f"{escape_text(path)}: has no pixel ({image.width} x {image.height}); remove or replace it")
    if pages > 1:
        raise InputRefused(f"{escape_text(path)}: has {pages} pages or frames; save each as a file of its own")
    return image


def _require_colour(path: Path, image: Image.Image) -> None:
    if image.format == "WEBP" and is_lossy_webp(path):
        raise InputRefused(f"{escape_text(path)}: is WebP with loss, which decoders read differently; save it as PNG")
    if (bits := bits_per_channel(image)) > 8:
        raise InputRefused(f"{escape_text(path)}: has {bits} bits a channel; expected 8-bit RGB: scale it down first")
    if image.mode not in ("RGB", "RGBA", "P", "PA"):
        remedy = _REMEDIES.get("L" if image.mode in ("1", "LA") else image.mode, "cannot be used; convert it to RGB")
        raise InputRefused(f"{escape_text(path)}: has mode {image.mode}; expected 8-bit RGB: it {remedy}")


def _has_header_exif(image: Image.Image) -> bool:
    # A PNG may carry EXIF behind its pixels. It does not count, since it cannot be read from the header.
    return image.format != "PNG" or "exif" in image.info


def load_upright(image: Image.Image) -> Image.Image:
    """Read the pixels of an open image, and apply its EXIF orientation."""
    has_exif = _has_header_exif(image)  # asked before the pixels are read
    if image.format == "TIFF" and hasattr(image, "filename"):
        image.filename = ""  # else Pillow maps an uncompressed file with height and width of the turned image
    image.load()
    return ImageOps.exif_transpose(image) if has_exif else image


def _upright_size(path: Path, image: Image.Image) -> tuple[int, int]:
    try:
        tags = getattr(image, "tag_v2", None)
        # newer Pillow swaps a TIFF's sides itself, older ones do not
        width, height = (tags[256], tags[257]) if tags is not None else image.size
        turn = _orientation(image)
    except DECODE_ERRORS as error:
        raise _undecodable(path, error) from error
    return (width, height) if turn in _SWAPPED_SIDES else (height, width)


def _orientation(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        tags = image.getexif() if _has_header_exif(image) else {}
    value = tags.get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1  # others turn nothing


def _undecodable(path: Path, error: Exception) -> InputRefused:
    return InputRefused(f"{escape_text(path)}: does not decode ({error}); remove or replace it")


def _too_large(path: Path, size: str) -> InputRefused:
    limit = MAX_PIXELS // 1_000_000
    return InputRefused(f"{escape_text(path)}: is larger than {limit} megapixels ({size}); cut it into tiles first")
