"""Image files as patches of one size: whole, or cut into tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.safe_text import escape_text
from histoxai.ingest.formats.base import PatchIndex
from histoxai.settings import Ingest

T = TypeVar("T")


class Corner(NamedTuple):
    """Upper-left corner of a patch in its image, px."""

    y: int
    x: int


def corners(size: tuple[int, int], side: int, overlap: int) -> list[Corner]:
    """Return the corners of all whole tiles of an image of `size` (height, width), row by row.

    Up to a tile at the right and the lower edge is left out.
    """
    rows, columns = (range(0, length - side + 1, side - overlap) for length in size)
    return [Corner(y, x) for y in rows for x in columns]


class TileLayout:
    """Image and corner of each patch, for a list of image files; fills in the index's size and tile positions."""

    def __init__(self, index: PatchIndex, settings: Ingest) -> None:
        if settings.overlap and settings.size is None:
            raise UsageError(f"--overlap {settings.overlap}: applies to tiles; give their side with --size")
        self._index, self._settings = index, settings
        self._tiles: list[tuple[int, Corner]] = []
        self._last_decoded: tuple[int, Any] | None = None
        self._lock = Lock()
        if settings.size is not None:
            index.size = (settings.size, settings.size)
            index.facts |= {"size": settings.size, "overlap": settings.overlap}

    def add(self, number: int, path: Path, size: tuple[int, int], frame: str) -> int:
        """Cut image `number` of `size` (height, width) into patches; return how many there are.

        `frame` names the image's coordinate system. Raises InputRefused where the image is smaller than a tile or,
        without tiles, not of the first image's size.
        """
        index, side = self._index, self._settings.size
        tiles = [Corner(0, 0)] if side is None else corners(size, side, self._settings.overlap)
        if not tiles:
            raise InputRefused(
                f"{escape_text(path)}: is {size[1]} x {size[0]} px, smaller than a tile; "
                f"choose a --size of at most {min(size)}"
            )
        if side is None:
            index.require_size(path, size)
            index.set_size(path, size)
        else:
            index.add_positions(frame, [c.x for c in tiles], [c.y for c in tiles], side)
        self._tiles += [(number, c) for c in tiles]
        return len(tiles)

    def iterate(self, start: int, stop: int, decode: Callable[[int], T]) -> Iterator[tuple[T, Corner]]:
        """Yield (decode(image number), corner) of each patch [start, stop); tiles of one image are decoded once."""
        last = -1
        for number, corner in self._tiles[start:stop]:
            if number != last:
                image, last = self._decode(number, decode), number
            yield image, corner

    def _decode(self, number: int, decode: Callable[[int], T]) -> T:
        if self._settings.size is None:
            return decode(number)
        with self._lock:  # another thread may ask for the next rows of the same large image
            if self._last_decoded is None or self._last_decoded[0] != number:
                self._last_decoded = (number, decode(number))
            image: T = self._last_decoded[1]
            return image

    def crop(self, pixels: np.ndarray, corner: Corner) -> np.ndarray:
        """Return the patch at a corner of an image (H, W, ...)."""
        height, width = self._index.size
        return pixels[corner.y : corner.y + height, corner.x : corner.x + width]
