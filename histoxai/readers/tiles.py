"""Image files as patches of one size: whole, or cut into tiles."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from histoxai.errors import InputRefused
from histoxai.readers.base import Index, require_size
from histoxai.readers.walk import printable
from histoxai.settings import Ingest


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


class Layout:
    """Which image and corner each patch of a list of image files has; keeps the index's size and tile coordinates."""

    def __init__(self, index: Index, settings: Ingest) -> None:
        self._index, self._settings = index, settings
        self._first: Path | None = None
        self.places: list[tuple[int, Corner]] = []
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
            require_size(path, size, None if self._first is None else index.size, self._first)
            index.size = size
        else:
            index.extra["frame"] += [frame] * len(cut)
            index.extra["x"] += [c.x for c in cut]
            index.extra["y"] += [c.y for c in cut]
            index.extra["extent"] += [side] * len(cut)
        self._first = self._first or path
        self.places += [(number, c) for c in cut]
        return len(cut)

    def crop(self, pixels: np.ndarray, corner: Corner) -> np.ndarray:
        """The patch at a corner of an image (H, W, ...)."""
        height, width = self._index.size
        return pixels[corner.y : corner.y + height, corner.x : corner.x + width]
