"""Read rows of arrays fast, directly from zarr's shard format; every chunk is checked against its crc32c.

zarr-python takes 0.5 to 1 ms for one patch of a sharded array, most of it outside the decompression. Here a row costs
one `pread`, one crc32c and one blosc call that writes into the result. Shard indexes and open files are cached
(`scripts/bench read`). Arrays with other chunks or codecs are read by the zarr library.

It uses `pread` and not mmap: a file that shrinks or a file system that fails raises an error then, instead of ending
the process, and forked workers share nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc

from histoxai.core.s3_paths import is_on_s3
from histoxai.store.storage import s3_mirror, s3_objects

_OPEN_FILES = 256  # of all arrays together; a login node allows 1,024 per process
_CRC = 4
_EMPTY = 2**64 - 1
_CODECS = ("bytes", "blosc", "crc32c")


class ChunkDamaged(Exception):
    """A chunk differs from what was written. row: the first array row in it; shard: number of its file."""

    def __init__(self, shard: int, row: int, reason: str) -> None:
        super().__init__(reason)
        self.shard, self.row, self.reason = shard, row, reason


class Rows(Protocol):
    """A reader of one array's rows; both implementations return the same values.

    Raises ChunkDamaged if a checksum does not match, OSError if the system fails.
    """

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read rows (k,) int64 in any order, repeats allowed -> (k, ...)."""


@dataclass(frozen=True)
class Layout:
    """How an array is divided into files; a file is a shard with a chunk for each row, or one plain chunk."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    rows_per_file: int
    sharded: bool

    @classmethod
    def of(cls, meta: dict[str, Any]) -> Layout | None:
        """Return the layout from an array's zarr.json; None if this module cannot read it."""
        try:
            return cls._parse(meta)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    @classmethod
    def _parse(cls, meta: dict[str, Any]) -> Layout | None:
        shape = tuple(meta["shape"])
        chunk = tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
        if not _has_default_grid(meta) or not shape or chunk[1:] != shape[1:]:
            return None
        codecs, sharded = meta["codecs"], False
        if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            if not _has_row_chunks(inner, shape):
                return None
            codecs, sharded = inner["codecs"], True
        if tuple(c["name"] for c in codecs) != _CODECS or not _is_little_endian(codecs[0]):
            return None
        dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        if dtype.kind not in "iuf":
            return None
        fill = np.array(float(meta["fill_value"]) if dtype.kind == "f" else meta["fill_value"], dtype)
        return cls(shape, dtype, fill, chunk[0], sharded)

    def file(self, k: int) -> str:
        """Return the path of file k in the array's folder."""
        return "/".join(["c", str(k), *["0"] * (len(self.shape) - 1)])


def open_rows(folder: Path, array: zarr.Array[Any], absent: Callable[[int], None]) -> Rows:
    """Return the fastest reader for an array in a folder.

    absent(k): called if file k is missing, which means fill values in zarr; it raises if the store's records expect a
    file.
    """
    try:
        layout = Layout.of(json.loads((folder / "zarr.json").read_bytes()))
    except (OSError, ValueError):
        layout = None
    if layout is not None:
        return ShardRows(folder, layout, absent)
    if is_on_s3(folder):
        return LibraryRows(s3_mirror.array_in_memory(folder))
    return LibraryRows(array)


@dataclass(frozen=True, eq=False)
class _ArrayFolder:
    """The folder of an array and its layout; each reader has its own, the key of its open files."""

    path: Path
    layout: Layout


@lru_cache(maxsize=_OPEN_FILES)
def _open_file(folder: _ArrayFolder, k: int) -> _File:
    return _File(folder.path / folder.layout.file(k), folder.layout)


class ShardRows:
    """Reads the shard format directly."""

    def __init__(self, folder: Path, layout: Layout, absent: Callable[[int], None]) -> None:
        self._folder, self._layout, self._absent = _ArrayFolder(folder, layout), layout, absent
        self._is_on_s3 = is_on_s3(folder)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read rows (k,) in any order -> (k, ...)."""
        layout = self._layout
        out = np.empty((len(rows), *layout.shape[1:]), layout.dtype)
        numbers, offsets = np.divmod(rows, layout.rows_per_file)
        prefetched: list[_File] = []
        try:
            if self._is_on_s3 and layout.sharded:
                self._prefetch(numbers, offsets, prefetched)
            self._fill(out, numbers, offsets)
        finally:
            for file in prefetched:  # its chunks would stay in memory as long as the file is open
                file.prefetch([])
        return out

    def _fill(self, out: np.ndarray, numbers: np.ndarray, offsets: np.ndarray) -> None:
        if self._layout.sharded:
            self._fill_by_row(out, numbers, offsets)
            return
        order = np.argsort(numbers, kind="stable")
        for same_file in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else ():
            k = int(numbers[same_file[0]])
            file = self._open(k)
            try:
                out[same_file] = self._layout.fill if file is None else file.whole()[offsets[same_file]]
            except ValueError as error:
                raise ChunkDamaged(k, k * self._layout.rows_per_file, str(error)) from None

    def _fill_by_row(self, out: np.ndarray, numbers: np.ndarray, offsets: np.ndarray) -> None:
        absent: set[int] = set()  # for this call only: a later one may find the files written
        for i, (k, offset) in enumerate(zip(numbers.tolist(), offsets.tolist(), strict=True)):
            file = None if k in absent else self._open(k)
            if file is None:
                absent.add(k)
                out[i] = self._layout.fill
                continue
            try:
                file.inner(offset, out[i : i + 1])
            except ValueError as error:
                raise ChunkDamaged(k, k * self._layout.rows_per_file + offset, str(error)) from None

    def _prefetch(self, numbers: np.ndarray, offsets: np.ndarray, prefetched: list[_File]) -> None:
        # From S3, all rows of a file in as few requests as possible.
        for k in np.unique(numbers).tolist():
            if (file := self._open(k)) is not None:
                prefetched.append(file)
                file.prefetch(np.unique(offsets[numbers == k]).tolist())

    def _open(self, k: int) -> _File | None:
        try:
            return _open_file(self._folder, k)
        except FileNotFoundError:
            self._absent(k)
            return None  # not cached: another task may write the file later
        except ValueError as error:
            raise ChunkDamaged(k, k * self._layout.rows_per_file, str(error)) from None


class _File:
    """An open file of an array: its descriptor and, for a shard, the offsets of its chunks."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._plain: np.ndarray | None = None
        self._remote: s3_objects.RangeReader | None = None
        if is_on_s3(path):
            self._remote = s3_objects.RangeReader(path)
            self._size = self._remote.size
        else:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang
            self._size = os.fstat(self._handle).st_size
        if layout.sharded:
            self._offsets = self._index()

    def __del__(self) -> None:
        # Closed by reference count, not on eviction from the cache: another thread may be reading.
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def _index(self) -> list[tuple[int, int]]:
        length = 16 * self._layout.rows_per_file
        if self._size < length + _CRC:
            raise ValueError("the file is shorter than its index")
        body = _without_crc(self._read(self._size - length - _CRC, length + _CRC))
        table = np.frombuffer(body, "<u8").reshape(-1, 2)
        used = table[table[:, 0] != _EMPTY]
        if (used.astype(np.float64).sum(axis=1) > self._size).any():
            raise ValueError("its index points behind its end")
        return [(a, n) for a, n in table.tolist()]

    def prefetch(self, rows: list[int]) -> None:
        """For a file on S3: fetch the chunks of these rows into memory, and drop those of earlier calls."""
        if self._remote is not None:
            self._remote.prefetch([self._offsets[at] for at in rows if self._offsets[at][0] != _EMPTY])

    def inner(self, at: int, out: np.ndarray) -> None:
        """Decompress the chunk of row `at` of this file into out (1, ...)."""
        offset, length = self._offsets[at]
        if offset == _EMPTY:
            out[...] = self._layout.fill
        else:
            _decompress(self._read(offset, length), out)

    def whole(self) -> np.ndarray:
        """Return the rows of a plain chunk, which is decompressed once."""
        if self._plain is None:
            plain = np.empty((self._layout.rows_per_file, *self._layout.shape[1:]), self._layout.dtype)
            _decompress(self._read(0, self._size), plain)
            self._plain = plain
        return self._plain

    def _read(self, offset: int, length: int) -> bytes:
        if self._remote is not None:
            if len(data := self._remote.read(offset, length)) < length:
                raise ValueError("the file ends too early")
            return data
        data = os.pread(self._handle, length, offset)
        while len(data) < length:  # a signal, or a file system that reads in pieces
            more = os.pread(self._handle, length - len(data), offset + len(data))
            if not more:
                raise ValueError("the file ends too early")
            data += more
        return data


class LibraryRows:
    """Reads through the zarr library, in runs of neighbouring rows."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Read rows (k,) in any order -> (k, ...)."""
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        parts = [self._run(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, cuts) if len(run)]
        return np.concatenate(parts) if parts else np.asarray(self._array[:0])

    def _run(self, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(self._array[start:stop])
        except Exception as error:  # the library raises whatever the codec raised
            if stop - start > 1:  # find the damaged row
                return np.concatenate([self._run(i, i + 1) for i in range(start, stop)])
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            shard = self._array.shards or self._array.chunks
            raise ChunkDamaged(start // shard[0], start, str(error)) from error


def _has_default_grid(meta: dict[str, Any]) -> bool:
    keys = meta["chunk_key_encoding"]
    is_default = meta["chunk_grid"]["name"] == "regular" and keys["name"] == "default"
    return bool(is_default and keys.get("configuration", {}).get("separator", "/") == "/")


def _has_row_chunks(inner: dict[str, Any], shape: tuple[int, ...]) -> bool:
    # Whether a shard has a chunk for each row, and its index at the end.
    is_by_row = tuple(inner["chunk_shape"]) == (1, *shape[1:]) and inner.get("index_location", "end") == "end"
    return is_by_row and [c["name"] for c in inner["index_codecs"]] == ["bytes", "crc32c"]


def _is_little_endian(codec: dict[str, Any]) -> bool:
    return bool(codec.get("configuration", {}).get("endian", "little") == "little")


def _without_crc(data: bytes) -> np.ndarray:
    # Checks and cuts off the crc32c at the end; returns an array, which google_crc32c reads without a copy.
    if len(data) < _CRC:
        raise ValueError("a chunk is shorter than its checksum")
    body = np.frombuffer(data, np.uint8)[:-_CRC]
    if google_crc32c.value(body) != int.from_bytes(data[-_CRC:], "little"):
        raise ValueError("its checksum (crc32c) does not match")
    return body


def _decompress(data: bytes, out: np.ndarray) -> None:
    body = _without_crc(data)
    if len(body) < 16 or int.from_bytes(body[4:8].tobytes(), "little") != out.nbytes:
        raise ValueError("a chunk holds another number of bytes than a row has")
    try:
        blosc.decompress(body, out)
    except Exception as error:  # RuntimeError or ValueError, by version
        raise ValueError(f"it does not decompress ({error})") from None
