"""What an array's header claims against what its file holds, before memory is taken for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.base import RowArray

_CHUNKS = 1000  # of so many chunks at least one has to be there
_PACKED = 100_000  # no images are packed as tightly: gzip's limit is 1032
_LARGE = 1 << 30  # bytes; less fits in memory whatever the file holds


class ChunkCounts(NamedTuple):
    """Chunks that are there, chunks that the header speaks of, bytes of all of them, the value of missing ones."""

    there: int
    total: int
    bytes: int
    fill: Any


def require_plausible_size(array: RowArray) -> None:
    """Raise InputRefused where images are claimed that the file cannot hold."""
    held = _held(array)
    if held is None:
        return
    if held.there * _CHUNKS < held.total:
        raise InputRefused(
            f"{array.path}: claims {held.total:,} chunks, of which {held.there:,} are there; is it damaged? copy it "
            "again from the source"
        )
    claimed = int(np.dtype(array.dtype).itemsize) * _product(array.shape)
    if claimed > _LARGE and held.bytes * _PACKED < claimed:
        raise InputRefused(
            f"{array.path}: claims {claimed:,} bytes, of which {held.bytes:,} are there; is it damaged? copy it again "
            "from the source"
        )


def missing_chunks_note(array: RowArray) -> str | None:
    """A note where chunks are missing: writers may leave out chunks that hold one value, copies may lose them."""
    held = _held(array)
    if held is None or held.there >= held.total:
        return None
    return f"{array.path}: {held.total - held.there} of {held.total} chunks are not there and read as {held.fill}"


def require_all_chunks(array: RowArray, what: str) -> None:
    """Raise InputRefused where chunks of labels or groups are missing: a value that nobody wrote is a guess."""
    if note := missing_chunks_note(array):
        raise InputRefused(
            f"{note}, which is a guess for {what}; copy it again, or write all chunks (zarr: write_empty_chunks=True)"
        )


def _held(array: RowArray) -> ChunkCounts | None:
    look = getattr(array, "held", None)  # files without chunks have none
    found: ChunkCounts | None = look() if look else None
    return found


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:  # of Python's integers, which do not overflow
        product *= int(length)
    return product
