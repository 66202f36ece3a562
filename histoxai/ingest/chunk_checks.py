"""Compare what an array's header claims with the chunks that its file holds, before memory is taken for it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from histoxai.core.errors import InputRefused
from histoxai.ingest.npy_files import RowArray

_CHUNKS = 1000  # at least one of so many chunks has to be in the file
_COMPRESSION = 100_000  # no images are compressed as much: gzip's limit is 1032
_LARGE = 1 << 30  # bytes; a smaller array fits in memory whatever the file holds


class ChunkCounts(NamedTuple):
    """Chunks in the file, chunks by the header, bytes of the chunks in the file, and the value of missing ones."""

    present: int
    total: int
    bytes: int
    fill_value: Any


def require_plausible_size(array: RowArray) -> None:
    """Raise InputRefused where a header claims images that the file cannot hold."""
    counts = array.chunk_counts()
    if counts is None:
        return
    if counts.present * _CHUNKS < counts.total:
        raise InputRefused(
            f"{array.path}: claims {counts.total:,} chunks, of which {counts.present:,} are there; is it damaged? copy "
            "it again from the source"
        )
    claimed = array.dtype.itemsize * math.prod(int(n) for n in array.shape)  # Python's integers do not overflow
    if claimed > _LARGE and counts.bytes * _COMPRESSION < claimed:
        raise InputRefused(
            f"{array.path}: claims {claimed:,} bytes, of which {counts.bytes:,} are there; is it damaged? copy it "
            "again from the source"
        )


def missing_chunks_note(array: RowArray) -> str | None:
    """Return a note where chunks are missing: writers may leave out chunks of one value, and copies may lose them."""
    counts = array.chunk_counts()
    if counts is None or counts.present >= counts.total:
        return None
    missing = counts.total - counts.present
    return f"{array.path}: {missing} of {counts.total} chunks are not there and read as {counts.fill_value}"


def require_all_chunks(array: RowArray, what: str) -> None:
    """Raise InputRefused where chunks of labels or groups are missing: their fill value would be a guess."""
    if note := missing_chunks_note(array):
        raise InputRefused(
            f"{note}, which is a guess for {what}; copy it again, or write all chunks (zarr: write_empty_chunks=True)"
        )
