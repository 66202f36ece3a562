"""Reading rows fast: straight from the public shard format, every chunk checked against its crc32c.

zarr-python takes 0.5 to 1 ms for one patch of a sharded array, most of it spent around the decompression.
Here a row costs one `pread`, one crc32c and one blosc call into its place; shard indexes and open files are
kept (`scripts/bench read`). Arrays that are cut or coded in any other way are read by the Zarr library.

`pread` and not mmap: a file that shrinks or a file system that fails is then an error and not the end of
the process, and forked workers share nothing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
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
_BYTES = ("bytes", "blosc", "crc32c")


class ChunkDamaged(Exception):
    """A chunk that is not what was written. row: the first array row that it concerns; shard: its file."""

    def __init__(self, shard: int, row: int, reason: str) -> None:
        super().__init__(reason)
        self.shard, self.row, self.reason = shard, row, reason


class Rows(Protocol):
    """Rows of one array; both kinds of reader give the same values.

    Raises ChunkDamaged where a checksum does not match, OSError where the system fails.
    """

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k,) int64 in any order, repeats allowed -> (k, ...)."""


@dataclass(frozen=True)
class Layout:
    """How an array is cut: rows per file, rows per chunk (1 in a shard, all of a plain chunk), row shape."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Any
    rows_per_file: int
    sharded: bool

    @classmethod
    def of(cls, meta: dict[str, Any]) -> Layout | None:
        """From an array's zarr.json; None where it is not one that this file reads."""
        try:
            shape = tuple(meta["shape"])
            grid = meta["chunk_grid"]
            chunk = tuple(grid["configuration"]["chunk_shape"])
            keys = meta["chunk_key_encoding"]
            usual = grid["name"] == "regular" and keys["name"] == "default"
            usual = usual and keys.get("configuration", {}).get("separator", "/") == "/"
            if not usual or not shape or chunk[1:] != shape[1:]:
                return None
            codecs, sharded = meta["codecs"], False
            if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
                inner = codecs[0]["configuration"]
                ours = tuple(inner["chunk_shape"]) == (1, *shape[1:]) and inner.get("index_location", "end") == "end"
                if not ours or [c["name"] for c in inner["index_codecs"]] != ["bytes", "crc32c"]:
                    return None
                codecs, sharded = inner["codecs"], True
            if tuple(c["name"] for c in codecs) != _BYTES or _endian(codecs[0]) != "little":
                return None
            dtype = np.dtype(meta["data_type"]).newbyteorder("<")
            if dtype.kind not in "iuf":
                return None
            fill = np.array(float(meta["fill_value"]) if dtype.kind == "f" else meta["fill_value"], dtype)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(shape, dtype, fill, chunk[0], sharded)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, uncompressed."""
        return int(self.dtype.itemsize * np.prod(self.shape[1:], dtype=np.int64))

    def file(self, k: int) -> str:
        """The path of a file below the array's folder."""
        return "/".join(["c", str(k), *["0"] * (len(self.shape) - 1)])


def open_rows(folder: Path, array: zarr.Array[Any], absent: Callable[[int], None]) -> Rows:
    """The fastest reader for an array in a folder.

    absent(k) is called where file k is missing, which means "all fill" in Zarr; it raises where the store's
    records say otherwise.
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


_open_files: OrderedDict[tuple[int, int], _File] = OrderedDict()
_readers = itertools.count()


class ShardRows:
    """Reads the shard format directly."""

    def __init__(self, folder: Path, layout: Layout, absent: Callable[[int], None]) -> None:
        self._folder, self._layout, self._absent = folder, layout, absent
        self._number = next(_readers)
        self._far = is_on_s3(folder)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k,) in any order -> (k, ...)."""
        layout = self._layout
        out = np.empty((len(rows), *layout.shape[1:]), layout.dtype)
        numbers, places = np.divmod(rows, layout.rows_per_file)
        try:
            if self._far and layout.sharded:
                self._fetch_ahead(numbers, places)
            self._fill(out, numbers, places)
        finally:
            if self._far:
                self._forget(numbers)
        return out

    def _fill(self, out: np.ndarray, numbers: np.ndarray, places: np.ndarray) -> None:
        if self._layout.sharded:
            self._fill_by_row(out, numbers, places)
            return
        order = np.argsort(numbers, kind="stable")
        for of in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else ():
            k = int(numbers[of[0]])
            file = self._open(k)
            try:
                out[of] = self._layout.fill if file is None else file.whole()[places[of]]
            except ValueError as error:
                raise ChunkDamaged(k, k * self._layout.rows_per_file, str(error)) from None

    def _fill_by_row(self, out: np.ndarray, numbers: np.ndarray, places: np.ndarray) -> None:
        absent: set[int] = set()  # asked once a call: another may find them written
        for i, (k, at) in enumerate(zip(numbers.tolist(), places.tolist(), strict=True)):
            file = None if k in absent else self._open(k)
            if file is None:
                absent.add(k)
                out[i] = self._layout.fill
                continue
            try:
                file.inner(at, out[i : i + 1])
            except ValueError as error:
                raise ChunkDamaged(k, k * self._layout.rows_per_file + at, str(error)) from None

    def _forget(self, numbers: np.ndarray) -> None:
        # what was fetched for these rows would stay as long as the file does
        for k in np.unique(numbers).tolist():
            if (file := _open_files.get((self._number, k))) is not None:
                file.fetch_ahead([])

    def _fetch_ahead(self, numbers: np.ndarray, places: np.ndarray) -> None:
        # from storage, all rows of a file in as few requests as there are gaps between them
        for k in np.unique(numbers).tolist():
            if (file := self._open(k)) is not None:
                file.fetch_ahead(np.unique(places[numbers == k]).tolist())

    def _open(self, k: int) -> _File | None:
        key = (self._number, k)
        if (known := _open_files.get(key)) is not None:
            with contextlib.suppress(KeyError):  # another thread may have closed it meanwhile
                _open_files.move_to_end(key)
            return known
        try:
            file = _File(self._folder / self._layout.file(k), self._layout)
        except FileNotFoundError:
            self._absent(k)
            return None  # not kept: it may be written while we read on
        except ValueError as error:
            raise ChunkDamaged(k, k * self._layout.rows_per_file, str(error)) from None
        _open_files[key] = file
        if len(_open_files) > _OPEN_FILES:
            _open_files.popitem(last=False)
        return file


class _File:
    """An open file of an array: its descriptor and, in a shard, the offsets of its chunks."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._plain: np.ndarray | None = None
        self._far: s3_objects.RangeReader | None = None
        if is_on_s3(path):
            self._far = s3_objects.RangeReader(path)
            self._size = self._far.size
        else:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hang
            self._size = os.fstat(self._handle).st_size
        if layout.sharded:
            self._offsets = self._index()

    def __del__(self) -> None:
        # By reference count, not when it falls out of the cache: another thread may be reading.
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def _index(self) -> list[tuple[int, int]]:
        length = 16 * self._layout.rows_per_file
        if self._size < length + _CRC:
            raise ValueError("the file is shorter than its index")
        body = _checked(self._read(self._size - length - _CRC, length + _CRC))
        table = np.frombuffer(body, "<u8").reshape(-1, 2)
        used = table[table[:, 0] != _EMPTY]
        if (used.astype(np.float64).sum(axis=1) > self._size).any():
            raise ValueError("its index points behind its end")
        return [(a, n) for a, n in table.tolist()]

    def fetch_ahead(self, rows: list[int]) -> None:
        """On storage: have the chunks of these rows at hand, and those of earlier calls no more."""
        if self._far is not None:
            self._far.ahead([self._offsets[at] for at in rows if self._offsets[at][0] != _EMPTY])

    def inner(self, at: int, out: np.ndarray) -> None:
        """Decompress the chunk of one row into out (1, ...)."""
        offset, length = self._offsets[at]
        if offset == _EMPTY:
            out[...] = self._layout.fill
        else:
            _decompress(self._read(offset, length), out)

    def whole(self) -> np.ndarray:
        """The rows of a plain chunk, decompressed once."""
        if self._plain is None:
            plain = np.empty((self._layout.rows_per_file, *self._layout.shape[1:]), self._layout.dtype)
            _decompress(self._read(0, self._size), plain)
            self._plain = plain
        return self._plain

    def _read(self, offset: int, length: int) -> bytes:
        if self._far is not None:
            if len(data := self._far.read(offset, length)) < length:
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
    """Reads through the Zarr library, chunk by chunk, never by fancy indexing."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array = array

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k,) in any order -> (k, ...); runs of neighbours are read together."""
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        parts = [self._run(int(run[0]), int(run[-1]) + 1) for run in np.split(rows, cuts) if len(run)]
        return np.concatenate(parts) if parts else np.asarray(self._array[:0])

    def _run(self, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(self._array[start:stop])
        except Exception as error:  # the library passes on whatever the codec raised
            if stop - start > 1:  # find the row
                return np.concatenate([self._run(i, i + 1) for i in range(start, stop)])
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            shard = self._array.shards or self._array.chunks
            raise ChunkDamaged(start // shard[0], start, str(error)) from error


def _endian(codec: dict[str, Any]) -> str:
    return str(codec.get("configuration", {}).get("endian", "little"))


def _checked(data: bytes) -> np.ndarray:
    # the bytes before the crc32c that ends every codec chain; an array, which google_crc32c reads without a copy
    if len(data) < _CRC:
        raise ValueError("a chunk is shorter than its checksum")
    body = np.frombuffer(data, np.uint8)[:-_CRC]
    if google_crc32c.value(body) != int.from_bytes(data[-_CRC:], "little"):
        raise ValueError("its checksum (crc32c) does not match")
    return body


def _decompress(data: bytes, out: np.ndarray) -> None:
    body = _checked(data)
    if len(body) < 16 or int.from_bytes(body[4:8].tobytes(), "little") != out.nbytes:
        raise ValueError("a chunk holds another number of bytes than a row has")
    try:
        blosc.decompress(body, out)
    except Exception as error:  # RuntimeError or ValueError, by version
        raise ValueError(f"it does not decompress ({error})") from None
