"""Encode shard files in memory, byte for byte as zarr-python writes them.

zarr-python spends 8 to 20 ms on each file outside the compression (an event loop, a task and a thread for every chunk),
as much as GradCAM takes for a patch. `tests/store/test_shards.py` compares the bytes. As in zarr, chunks are compressed
outside the main thread: there blosc uses one thread, so that its blocks always have the same order.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc

# Offset and length that mark a chunk of fill values in a shard's index.
_EMPTY = np.array([2**64 - 1, 2**64 - 1], "<u8")


def encode_chunk(rows: np.ndarray, length: int, fill: Any) -> bytes | None:
    """Encode one plain chunk of `length` rows, padded with the fill value; None if every value is the fill."""
    whole = rows
    if len(rows) < length:
        whole = np.full((length, *rows.shape[1:]), fill, rows.dtype)
        whole[: len(rows)] = rows
    return next(_compressed([whole], fill))


def encode_shard(rows: np.ndarray, length: int, fill: Any) -> bytes | None:
    """Encode a shard of `length` chunks of one row, its index at the end; None if every value is the fill."""
    index = np.tile(_EMPTY, (length, 1))
    parts: list[bytes] = []
    at = 0
    for k, part in enumerate(_compressed(list(rows), fill)):
        if part is not None:
            index[k] = at, len(part)
            parts.append(part)
            at += len(part)
    return b"".join([*parts, _with_crc(index.tobytes())]) if parts else None


def _compressed(chunks: list[np.ndarray], fill: Any) -> Any:
    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE, blocksize=0)

    def compress(chunk: np.ndarray) -> bytes | None:
        if _all_fill(chunk, fill):
            return None
        return _with_crc(codec.encode(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))))

    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
        yield from pool.map(compress, chunks)


def _all_fill(chunk: np.ndarray, fill: Any) -> bool:
    if chunk.dtype.kind == "f":
        # a negative zero has other bytes than a fill value of zero
        if np.isnan(fill):
            return bool(np.isnan(chunk).all())
        return not chunk.any() and not np.signbit(chunk).any() if fill == 0 else bool((chunk == fill).all())
    return bool((chunk == fill).all())


def _with_crc(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")
