"""Arrays in files that are read row by row: the interface, and `.npy` files."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histoxai.core.errors import InputRefused

if TYPE_CHECKING:
    from histoxai.ingest.chunk_checks import ChunkCounts

_DAMAGED_HEADER = (ValueError, OverflowError, SyntaxError, TypeError, MemoryError, RecursionError, TokenError)


class RowArray(Protocol):
    """An array of numbers or text in a file, read in runs of rows.

    path: as messages show it. never_written: the file has a header and no data.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    never_written: bool

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop); raises InputRefused where they cannot be read."""

    def chunk_counts(self) -> ChunkCounts | None:
        """Count the chunks in the file; None for an array that is stored in one piece."""


class NpyFile:
    """Rows of a `.npy` file; the header is checked first, and nothing is unpickled."""

    never_written = False

    def __init__(self, path: Path) -> None:
        self.path = path
        view = _memory_map(path)
        self.shape: tuple[int, ...] = view.shape
        self.dtype: np.dtype = view.dtype
        if view.ndim > 1 and view.flags.f_contiguous and not view.flags.c_contiguous:
            raise InputRefused(f"{path}: is in Fortran order; save numpy.ascontiguousarray(...) of it")
        self._offset: int = view.offset

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop), by plain reads: pages of a memory map would count as memory of this process."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self._offset + start * row)
                view, done = memoryview(out.data).cast("B"), 0
                while done < len(view):
                    count = file.readinto(view[done:])
                    if not count:
                        raise InputRefused(f"{self.path}: is truncated; copy it again from the source")
                    done += count
        except OSError as error:
            raise InputRefused(f"{self.path}: cannot be read: {error.strerror or error}") from error
        self._require_unicode(out)
        return out

    def _require_unicode(self, rows: np.ndarray) -> None:
        if self.dtype.kind == "U" and self.dtype.itemsize:
            codes = rows.view(np.dtype("u4").newbyteorder(self.dtype.byteorder))
            if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():
                raise InputRefused(f"{self.path}: holds text that is not Unicode; copy it again from the source")

    def chunk_counts(self) -> None:
        """Return None: a `.npy` file is one piece."""
        return None


def _memory_map(path: Path) -> np.memmap:
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic != b"\x93NUMPY":
            raise InputRefused(f"{path}: is not a .npy file; export it with numpy.save")
        view: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
        return view
    except UnicodeError as error:
        raise InputRefused(f"{path}: has a damaged header; copy it again from the source") from error
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror or error}") from error
    except _DAMAGED_HEADER as error:
        if "llow_pickle" in str(error) or "Python objects" in str(error):
            reason = "holds pickled objects, which are never loaded; save it again as a plain array (astype(str))"
        else:
            reason = f"is truncated or damaged ({str(error)[:80]}); copy it again from the source"
        raise InputRefused(f"{path}: {reason}") from error


class ConcatenatedRows:
    """Rows of several files as one sequence."""

    def __init__(self, files: Sequence[NpyFile]) -> None:
        self.files = files
        self.ends = np.cumsum([f.shape[0] for f in files]).tolist()

    def read(
        self, start: int, stop: int, convert: Callable[[np.ndarray, Path], np.ndarray] = lambda rows, path: rows
    ) -> np.ndarray:
        """Return rows [start, stop) across file borders; convert(rows, path) is applied to the rows of each file."""
        pieces = []
        k = bisect_right(self.ends, start)
        while start < stop:
            first = self.ends[k - 1] if k else 0
            end = min(stop, self.ends[k])
            rows = self.files[k].read(start - first, end - first)
            pieces.append(convert(rows, self.files[k].path))
            start, k = end, k + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
