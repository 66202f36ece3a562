"""Image files as patches of one size: whole, or cut into tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.safe_text import printable
from histoxai.ingest.formats.base import PatchIndex, require_same_size
from histoxai.settings import Ingest

T = TypeVar("T")


class Corner(NamedTuple):
    """Upper-left corner of a patch in its image, px."""

    y: int
    x: int


def corners(size: tuple[int, int], settings: Ingest) -> list[Corner]:
    """Corners of all whole tiles of an image of that height and width, row by row; px at its far edges may be left."""
    if settings.size is None:
        return [Corner(0, 0)]
    step = settings.size - settings.overlap
    return [
        Corner(y, x)
        for y in range(0, size[0] - settings.size + 1, step)
        for x in range(0, size[1] - settings.size + 1, step)
    ]


class TileLayout:
    """Which image and corner each patch of a list of image files has; keeps the index's size and tile coordinates."""

    def __init__(self, index: PatchIndex, settings: Ingest) -> None:
        if settings.overlap and settings.size is None:
            raise UsageError(f"--overlap {settings.overlap}: is of tiles; say with --size how large they are")
        self._index, self._settings = index, settings
        self._first: Path | None = None
        self.places: list[tuple[int, Corner]] = []
        self._kept: tuple[int, Any] | None = None
        self._lock = Lock()
        if settings.size is not None:
            index.size = (settings.size, settings.size)
            index.facts |= {"size": settings.size, "overlap": settings.overlap}
            index.extra |= {"frame": [], "x": [], "y": [], "extent": []}

    def add(self, number: int, path: Path, size: tuple[int, int], frame: str) -> int:
        """Cut image `number` of that height and width; returns how many patches it gives.

        Raises InputRefused where it is smaller than a tile or, without tiles, not of the first image's size.
        """
        index, side = self._index, self._settings.size
        cut = corners(size, self._settings)
        if not cut:
            raise InputRefused(
                f"{printable(path)}: is {size[1]} x {size[0]} px, smaller than a tile; "
                f"choose a --size of at most {min(size)}"
            )
        if side is None:
            require_same_size(path, size, None if self._first is None else index.size, self._first)
            index.size = size
        else:
            index.extra["frame"] += [frame] * len(cut)
            index.extra["x"] += [c.x for c in cut]
            index.extra["y"] += [c.y for c in cut]
            index.extra["extent"] += [side] * len(cut)
        self._first = self._first or path
        self.places += [(number, c) for c in cut]
        return len(cut)

    def each(self, start: int, stop: int, decode: Callable[[int], T]) -> Iterator[tuple[T, Corner]]:
        """What `decode` makes of the image of each of these patches, and its corner; tiles of one image share it."""
        last = -1
        for number, corner in self.places[start:stop]:
            if number != last:
                found, last = self._decoded(number, decode), number
            yield found, corner

    def _decoded(self, number: int, decode: Callable[[int], T]) -> T:
        if self._settings.size is None:
            return decode(number)
        with self._lock:  # a large image is kept for the next rows, which another thread may ask for
            if self._kept is None or self._kept[0] != number:
                self._kept = (number, decode(number))
            kept: T = self._kept[1]
            return kept

    def crop(self, pixels: np.ndarray, corner: Corner) -> np.ndarray:
        """The patch at a corner of an image (H, W, ...)."""
        height, width = self._index.size
        return pixels[corner.y : corner.y + height, corner.x : corner.x + width]
