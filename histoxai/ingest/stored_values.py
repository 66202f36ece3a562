"""What image files really hold: the numbers of masks as they are stored, bits of a channel, and lossy compression."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text

_BITS_TAG, _PHOTOMETRIC_TAG, _SAMPLE_TAG = 258, 262, 339
_WHITE_IS_ZERO = 0
_SIGNED = 2
_STRETCH = {2: 85, 4: 17}  # Pillow stretches grey values of so few bits to 0..255
_DARK = 31  # brightest channel of a colour that counts as black; quantizing shifts black by a little
_JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # start of a code stream, and the marker of its sizes


class GreyScale(NamedTuple):
    """How Pillow changes the grey numbers of a file: divided by `factor` and, if `inverted`, taken from `white`.

    is_signed: the file has numbers below 0 of 8 bits, which Pillow gives as 256 more.
    """

    factor: int
    white: int
    inverted: bool
    is_signed: bool = False

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Return the numbers as they stand in the file, in the same dtype or as int8; truth values become uint8."""
        if values.dtype == bool:
            values = values.astype(np.uint8)
        if self.is_signed:
            values = values.astype(np.int8)
        if self.inverted:
            values = np.asarray(self.white - values, values.dtype)
        return np.asarray(values // np.array(self.factor, values.dtype))


def grey_scale(path: Path, image: Image.Image) -> GreyScale:
    """Return how Pillow changes the grey numbers of an open file; asked before its pixels are read."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        # Where a TIFF says that 0 is white, as ImageJ does, Pillow inverts values of up to 8 bits
        inverted = image.mode in ("1", "L") and int(tags.get(_PHOTOMETRIC_TAG, 1)) == _WHITE_IS_ZERO
        factor = _STRETCH.get(bits_per_channel(image), 1) if image.mode == "L" else 1
        is_signed = image.mode == "L" and int(np.max(tags.get(_SAMPLE_TAG, 1))) == _SIGNED
        return GreyScale(factor, 1 if image.mode == "1" else 255, inverted, is_signed)
    with open(path, "rb") as file:
        head = file.read(25)
    is_stretched = image.mode == "L" and head[:4] == b"\x89PNG"
    return GreyScale(_STRETCH.get(head[24], 1) if is_stretched else 1, 255, False)


def bits_per_channel(image: Image.Image) -> int:
    """Return the bits of a channel in the file: Pillow opens 16-bit RGB as RGB and drops the lower byte."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return int(max(np.atleast_1d(tags.get(_BITS_TAG, 8))))
    if image.format == "JPEG2000":
        return _jpeg2000_bits(vars(image)["fp"])
    tiles = getattr(image, "tile", None)
    is_deep = image.mode.startswith("I") or (tiles and ";16" in str(tiles[0][3]))
    return 16 if is_deep else 8


def require_lossless(path: Path, image: Image.Image) -> None:
    """Raise InputRefused for a mask whose compression makes up values."""
    lossy = "JPEG" if image.format == "JPEG" or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp") else None
    if image.format == "JPEG2000" or image.info.get("compression") == "jpeg2000":
        lossy = "JPEG 2000"
    if image.format == "WEBP" and is_lossy_webp(path):
        lossy = "lossy WebP"
    if lossy:
        raise InputRefused(f"{escape_text(path)}: is compressed as {lossy}, which makes up values; save masks as PNG")


def require_black_zero(path: Path, image: Image.Image) -> None:
    """Raise InputRefused for a mask whose palette draws index 0 in a colour: is that the background or the object?"""
    if image.mode != "P" or image.palette is None:
        return
    pixel = Image.new("P", (1, 1))  # of index 0; the palette of a file comes in many orders, which Pillow knows
    pixel.putpalette(image.palette)
    red, green, blue = np.asarray(pixel.convert("RGB"))[0, 0].tolist()
    if max(red, green, blue) > _DARK:
        raise InputRefused(
            f"{escape_text(path)}: its palette draws index 0 in the colour ({red}, {green}, {blue}), which may be the "
            "object or the background; save grey numbers with 0 for background, or, where index 0 is background, name "
            "the other indices: --class-map 1=tumor,2=stroma"
        )


def is_lossy_webp(path: Path) -> bool:
    """Return whether a WebP file holds an image that was compressed with loss."""
    with open(path, "rb") as file:
        file.seek(12)  # RIFF, its length, WEBP
        while len(head := file.read(8)) == 8:
            kind, length = struct.unpack("<4sI", head)
            if kind in (b"VP8 ", b"VP8L"):
                return bool(kind == b"VP8 ")
            file.seek(length + length % 2, 1)
    return False


def _jpeg2000_bits(file: IO[bytes]) -> int:
    """Return the most bits of a component, from the marker of sizes in the code stream."""
    position = file.tell()
    file.seek(0)
    head = file.read(1 << 16)
    file.seek(position)
    at = head.find(_JPEG2000_SIZE)
    if at < 0 or len(head) < at + 42:
        return 8  # a broken file, which does not decode
    start = at + 2
    count = struct.unpack_from(">H", head, start + 38)[0]
    return max(((bits & 0x7F) + 1 for bits in head[start + 40 : start + 40 + 3 * count : 3]), default=8)
