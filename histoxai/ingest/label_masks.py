"""Slide annotations as an image: a mask of the whole slide whose values stand for classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageSequence

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.class_map import class_map_entry
from histoxai.ingest.images import DECODE_ERRORS, PILLOW_FORMATS, load_upright
from histoxai.ingest.stored_values import bits_per_channel, grey_scale, require_lossless

_pillow_limit = Lock()  # Pillow has one limit of pixels for all threads
_MAX_PIXELS = 1 << 28  # of a mask; a larger one takes more memory than it is worth
_MODES = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I")


def parse_class_map(class_map: Sequence[str]) -> dict[int, str]:
    """Read `3=epithelial` as {3: "epithelial"}; raises UsageError for anything else, and for a number named twice."""
    names: dict[int, str] = {}
    for value, name in map(class_map_entry, class_map):
        if value in names:
            raise UsageError(f"--class-map: gives {value} two names; keep one")
        names[value] = name
    return names


class LabelMask:
    """A mask of any resolution that covers the slide; the ratio of their sizes gives its scale.

    areas: (x, y, width, height) in level-0 px that a mask may cover: the slide, or its scanned part. values: class
    of each mask value. A pyramid is read at its finest level of at most 268 million pixels.

    names: the classes whose values occur. notes: counts of what cannot be used. Raises InputRefused for an image that
    is no such mask.
    """

    def __init__(self, path: Path, areas: Sequence[tuple[int, int, int, int]], values: Mapping[int, str]) -> None:
        self.notes = Counter[str]()
        self._mask = read_mask(path)
        present = np.unique(self._mask)
        if not values:
            raise InputRefused(
                f"{path}: nothing says what its values {_few(present)} mean; name them with --class-map "
                "1=tumor,2=stroma"
            )
        self.names = sorted({values[v] for v in present.tolist() if v in values})
        if not self.names:
            raise InputRefused(f"{path}: has values {_few(present)}, none of which --class-map names")
        if unnamed := [v for v in present.tolist() if v and v not in values]:
            self.notes[f"of mask values without a name ({_few(np.array(unnamed))})"] += len(unnamed)
        self._values = {n: [v for v, name in values.items() if name == n] for n in self.names}
        height, width = self._mask.shape
        fitting = [a for a in areas if abs(width - height * a[2] / a[3]) <= max(1.5, 0.02 * width)]
        if not fitting:
            raise InputRefused(
                f"{path}: {width} x {height} px have not the shape of the slide ({areas[0][2]} x {areas[0][3]} px); "
                "is it of another slide?"
            )
        self._left, self._top = fitting[0][:2]
        self._ratio = fitting[0][2] / width, fitting[0][3] / height

    def _is_in(self, names: Sequence[str], region: tuple[slice, slice]) -> np.ndarray:
        return np.isin(self._mask[region], [v for n in names for v in self._values.get(n, [])])

    def shares(self, names: Sequence[str], x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray:
        """Return the share of each tile that these classes cover, as `Annotation`, exact also for cut mask pixels."""
        out = np.zeros(len(x))
        tops, line = np.unique(y, return_inverse=True)
        order = np.argsort(line, kind="stable")
        for tile_top, tiles in zip(tops, np.split(order, np.cumsum(np.bincount(line))[:-1]), strict=True):
            top = (tile_top - self._top) / self._ratio[1]
            rows, weights = _pixel_weights(top, top + extent / self._ratio[1], self._mask.shape[0])
            columns = weights @ self._is_in(names, (rows, slice(None)))
            total = np.concatenate([[0.0], np.cumsum(columns)])
            left = (x[tiles] - self._left) / self._ratio[0]
            edges = np.arange(len(total))
            right = left + extent / self._ratio[0]
            covered = np.interp(right, edges, total) - np.interp(left, edges, total)
            out[tiles] = covered * self._ratio[0] * self._ratio[1] / extent**2
        return np.clip(out, 0.0, 1.0)

    def plane(self, names: Sequence[str], x: float, y: float, extent: float, size: int) -> np.ndarray:
        """Return (size, size) uint8 in {0, 1}: the pixels of a tile whose centre lies in one of these classes."""
        centres = (np.arange(size) + 0.5) * (extent / size)
        rows, columns = (
            np.clip(np.floor((start + centres - offset) / ratio).astype(np.int64), 0, n - 1)
            for start, offset, ratio, n in zip(
                (y, x), (self._top, self._left), self._ratio[::-1], self._mask.shape, strict=True
            )
        )
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        return self._is_in(names, box)[np.ix_(rows - rows[0], columns - columns[0])].astype(np.uint8)


def _pixel_weights(start: float, stop: float, n: int) -> tuple[slice, np.ndarray]:
    # the pixels of a line of n that [start, stop) touches, and the share of each
    start, stop = np.clip([start, stop], 0, n)
    first, last = int(np.floor(start)), int(np.ceil(stop))
    edges = np.clip(np.arange(first, last + 1), start, stop)
    return slice(first, last), np.diff(edges)


def _few(values: np.ndarray) -> str:
    shown = [str(v) for v in values[:8]]
    return ", ".join([*shown, "..."] if len(values) > 8 else shown)


def read_mask(path: Path) -> np.ndarray:
    """Read the values of a mask image as (h, w) uint8, int8, uint16 or int32.

    Raises InputRefused for anything that has not one value a pixel.
    """
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the limit of what is read is checked below
        try:
            return _read(path)
        except DECODE_ERRORS as error:
            raise InputRefused(f"{path}: is not an image that can be read ({error}); export it again") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _read(path: Path) -> np.ndarray:
    with Image.open(path, formats=PILLOW_FORMATS) as image:
        levels = enumerate(ImageSequence.Iterator(image))
        level = next((k for k, frame in levels if frame.width * frame.height <= _MAX_PIXELS), None)
        if level is None:
            raise InputRefused(f"{path}: has more than {_MAX_PIXELS} pixels; export it at a lower resolution")
        image.seek(level)
        is_deep = bits_per_channel(image) > 8  # asked before the pixels are read, which forgets it
        require_lossless(path, image)
        scale = grey_scale(path, image)
        upright = load_upright(image)
        values, mode = np.asarray(upright), upright.mode
    if mode in ("RGB", "RGBA"):
        # some tools write the value into the first channel, or into all three
        is_grey = (values[..., 1:3] == 0).all() or (values[..., :1] == values[..., 1:3]).all()
        if is_grey and is_deep:
            raise InputRefused(f"{path}: has 16 bits in three channels, which lose half; export it as grey")
        if is_grey:
            return np.ascontiguousarray(values[..., 0])
    if mode not in _MODES:
        raise InputRefused(
            f"{path}: has mode {mode}; expected a mask with one whole number a class: export it as grey or indexed"
        )
    return scale.stored(values)
