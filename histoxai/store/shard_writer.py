"""Shard files in memory, byte for byte as zarr-python writes them.

zarr-python spends 8 to 20 ms on a file around the compression (an event loop, a task and a thread for every chunk),
as much as GradCAM takes for a patch; `tests/store/test_shards.py` compares the bytes. Chunks are compressed in threads
other than the main one, as zarr does: from there blosc uses one thread, whose blocks always come in the same order.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc

_EMPTY = np.array([2**64 - 1, 2**64 - 1], "<u8")


def encode_chunk(rows: np.ndarray, length: int, fill: Any) -> bytes | None:
    """One plain chunk of `length` rows, those behind the last one fill; None where every value is."""
    whole = rows
    if len(rows) < length:
        whole = np.full((length, *rows.shape[1:]), fill, rows.dtype)
        whole[: len(rows)] = rows
    return next(_compressed([whole], fill))


def encode_shard(rows: np.ndarray, length: int, fill: Any) -> bytes | None:
    """A shard of `length` inner chunks, a row each, its index at the end; None where every value is fill."""
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

    def one(chunk: np.ndarray) -> bytes | None:
        if _all_fill(chunk, fill):
            return None
        return _with_crc(codec.encode(np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<"))))

    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
        yield from pool.map(one, chunks)


def _all_fill(chunk: np.ndarray, fill: Any) -> bool:
    if chunk.dtype.kind == "f":
        # a negative zero is no fill of zero, since its bytes are not
        if np.isnan(fill):
            return bool(np.isnan(chunk).all())
        return not chunk.any() and not np.signbit(chunk).any() if fill == 0 else bool((chunk == fill).all())
    return bool((chunk == fill).all())


def _with_crc(data: bytes) -> bytes:
    return data + google_crc32c.value(data).to_bytes(4, "little")
