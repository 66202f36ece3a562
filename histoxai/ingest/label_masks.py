"""Annotations drawn as an image: a mask of the whole slide whose values stand for classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageSequence

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.images import _BROKEN, FORMATS, _bits, _stretch

_pillow = Lock()
_MOST = 1 << 28  # pixels; a larger mask takes more memory than it is worth
_VALUES = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I")


def parse_class_map(class_map: Sequence[str]) -> dict[int, str]:
    """`3=epithelial` as {3: "epithelial"}; raises UsageError for anything else."""
    names = {}
    for entry in class_map:
        value, sign, name = entry.partition("=")
        if not sign or not value.strip().isdecimal() or not name.strip():
            raise UsageError(f"--class-map {entry}: expected a mask value and its class, as 3=epithelial")
        if int(value) in names:
            raise UsageError(f"--class-map: gives {int(value)} two names")
        names[int(value)] = name.strip()
    return names


class LabelMask:
    """A mask of any resolution that covers the slide, by the ratio of their sizes.

    frames: x, y, width, height in level-0 px that a mask may cover (the slide; what was scanned of it). `names`: the
    classes whose values occur. A pyramid is read at its finest level of at most 268 million pixels.
    """

    def __init__(self, path: Path, frames: Sequence[tuple[int, int, int, int]], values: Mapping[int, str]) -> None:
        self.notes = Counter[str]()
        self._mask = read_mask(path)
        found = np.unique(self._mask)
        if not values:
            raise InputRefused(
                f"{path}: nothing says what its values {_few(found)} mean; name them with --class-map 1=tumor,2=stroma"
            )
        self.names = sorted({values[v] for v in found.tolist() if v in values})
        if not self.names:
            raise InputRefused(f"{path}: has values {_few(found)}, none of which --class-map names")
        if unnamed := [v for v in found.tolist() if v and v not in values]:
            self.notes[f"of mask values without a name ({_few(np.array(unnamed))})"] += len(unnamed)
        self._values = {n: [v for v, name in values.items() if name == n] for n in self.names}
        height, width = self._mask.shape
        fits = [f for f in frames if abs(width - height * f[2] / f[3]) <= max(1.5, 0.02 * width)]
        if not fits:
            raise InputRefused(
                f"{path}: {width} x {height} px have not the shape of the slide ({frames[0][2]} x {frames[0][3]} px); "
                "is it of another slide?"
            )
        self._left, self._top = fits[0][:2]
        self._ratio = fits[0][2] / width, fits[0][3] / height

    def _of(self, names: Sequence[str], region: tuple[slice, slice]) -> np.ndarray:
        wanted = [v for n in names for v in self._values.get(n, [])]
        return np.isin(self._mask[region], wanted)

    def shares(self, names: Sequence[str], x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray:
        """(n) float64: share of each tile that these classes cover, exact also where tiles cut pixels of the mask.

        x, y: (n) upper-left corners, extent: the side, in level-0 px.
        """
        out = np.zeros(len(x))
        lines, where = np.unique(y, return_inverse=True)
        order = np.argsort(where, kind="stable")
        for line, tiles in zip(lines, np.split(order, np.cumsum(np.bincount(where))[:-1]), strict=True):
            top = (line - self._top) / self._ratio[1]
            rows, weights = _weights(top, top + extent / self._ratio[1], self._mask.shape[0])
            columns = weights @ self._of(names, (rows, slice(None)))
            total = np.concatenate([[0.0], np.cumsum(columns)])
            left = (x[tiles] - self._left) / self._ratio[0]
            at, positions = np.arange(len(total)), (left, left + extent / self._ratio[0])
            covered = np.interp(positions[1], at, total) - np.interp(positions[0], at, total)
            out[tiles] = covered * self._ratio[0] * self._ratio[1] / extent**2
        return np.clip(out, 0.0, 1.0)

    def plane(self, names: Sequence[str], x: float, y: float, extent: float, size: int) -> np.ndarray:
        """(size, size) uint8 in {0, 1}: which pixels of a tile have their centre in one of these classes."""
        centres = (np.arange(size) + 0.5) * (extent / size)
        places = []
        for start, offset, ratio, n in zip(
            (y, x), (self._top, self._left), self._ratio[::-1], self._mask.shape, strict=True
        ):
            places.append(np.clip(np.floor((start + centres - offset) / ratio).astype(np.int64), 0, n - 1))
        rows, columns = places
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return self._of(names, box)[np.ix_(rows - rows[0], columns - columns[0])].astype(np.uint8)


def _weights(start: float, stop: float, n: int) -> tuple[slice, np.ndarray]:
    # the pixels of a line that [start, stop) touches, and how much of each
    start, stop = np.clip([start, stop], 0, n)
    first, last = int(np.floor(start)), int(np.ceil(stop))
    edges = np.clip(np.arange(first, last + 1), start, stop)
    return slice(first, last), np.diff(edges)


def _few(values: np.ndarray) -> str:
    words = [str(v) for v in values[:8]]
    return ", ".join([*words, "..."] if len(values) > 8 else words)


def read_mask(path: Path) -> np.ndarray:
    """(h, w) uint8, uint16 or int32: the values of a mask image.

    Raises InputRefused for anything that is not one value a pixel.
    """
    with _pillow:  # Pillow has one limit for all threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # our own limit is for what is read, below
        try:
            return _read(path)
        except _BROKEN as error:
            raise InputRefused(f"{path}: is not an image that can be read ({error}); export it again") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _read(path: Path) -> np.ndarray:
    with Image.open(path, formats=FORMATS) as image:
        fits = [k for k, frame in enumerate(ImageSequence.Iterator(image)) if frame.width * frame.height <= _MOST]
        if not fits:
            raise InputRefused(f"{path}: has more than {_MOST} pixels; export it at a lower resolution")
        image.seek(fits[0])
        deep = _bits(image) > 8  # before it is read, which forgets
        values, mode = np.asarray(image), image.mode
    if mode in ("RGB", "RGBA"):
        # some tools write the value into the first channel, or into all three
        grey = (values[..., 1:3] == 0).all() or (values[..., :1] == values[..., 1:3]).all()
        if grey and deep:
            raise InputRefused(f"{path}: has 16 bits in three channels, which lose half; export it as grey")
        if grey:
            return np.ascontiguousarray(values[..., 0])
    if mode not in _VALUES:
        raise InputRefused(
            f"{path}: has mode {mode}; expected a mask with one whole number a class: export it as grey or indexed"
        )
    return values.astype(np.uint8) if values.dtype == bool else values // np.array(_stretch(path, mode), values.dtype)
