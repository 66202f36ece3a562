"""Zarr nodes: their metadata files, checked before zarr opens them, and their arrays, read row by row."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.resources import bounded_memory
from histoxai.ingest.chunk_checks import ChunkCounts

_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
_LEVELS = 3  # of nested groups that are searched for arrays
_COUNTED = 100_000  # chunks; looking for more of them one by one takes too long


class ZarrNode(NamedTuple):
    """A group or an array: its folder, its metadata and its attributes."""

    path: Path
    is_array: bool
    metadata: dict[str, Any]
    attributes: dict[str, Any]


class ZarrArray:
    """An array that is read in runs of rows; see `RowArray`."""

    def __init__(self, source: ZarrNode) -> None:
        import zarr

        _require_no_pickle(source)
        self.path = source.path
        try:
            self._array: Any = zarr.open_array(store=str(source.path), mode="r")
            self.shape: tuple[int, ...] = tuple(self._array.shape)
            self.dtype: np.dtype = np.dtype(self._array.dtype)
        except Exception as error:  # codecs and dtypes of other packages raise errors of any kind
            raise InputRefused(
                f"{self.path}: cannot be opened as Zarr ({error}); copy it again or convert it"
            ) from error
        # labels and masks of zeros only have no chunks either
        self.never_written = len(self.shape) > 3 and all(name in _METADATA for name in os.listdir(source.path))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop); raises InputRefused where they cannot be read."""
        return self.take((slice(start, stop),))

    def take(self, selection: tuple[Any, ...]) -> np.ndarray:
        """Return the part of the array that `selection` indexes; raises InputRefused where it cannot be read."""
        try:
            with bounded_memory(self._bytes(selection)):
                return np.asarray(self._array[selection])
        except MemoryError as error:
            raise InputRefused(f"{self.path}: a chunk unpacks to far more than it should; is it harmful?") from error
        except Exception as error:  # of any kind, as above
            raise InputRefused(f"{self.path}: does not decode ({error}); copy it again from the source") from error

    def _bytes(self, selection: tuple[Any, ...]) -> int:
        # of the selection and of one chunk, which may be larger
        lengths = [len(range(n)[s]) if isinstance(s, slice) else 1 for s, n in zip(selection, self.shape, strict=False)]
        numbers = math.prod((*lengths, *self.shape[len(lengths) :]))
        return self.dtype.itemsize * (numbers + math.prod(self._array.shards or self._array.chunks))

    def chunk_counts(self) -> ChunkCounts:
        """Count the chunk files; raises InputRefused where the metadata do not say how many there should be."""
        files, size = _chunks_below(self.path)
        try:
            total, present = int(self._array.nchunks), files
            if total > _COUNTED:
                shape = self._array.shards or self._array.chunks
                total = math.prod(-(-n // c) for n, c in zip(self.shape, shape, strict=True))
            else:
                present = int(self._array.nchunks_initialized)
            return ChunkCounts(min(present, total), total, size, self._array.fill_value)
        except Exception as error:  # of any kind, as above
            raise InputRefused(f"{self.path}: has damaged metadata ({error}); copy it again from the source") from error


def read_node(folder: Path) -> ZarrNode | None:
    """Read the metadata of a folder; None where it is no Zarr node. Raises InputRefused where it is not valid JSON."""
    if (folder / "zarr.json").is_file():
        metadata = _json(folder / "zarr.json")
        attributes = metadata.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise InputRefused(f"{folder / 'zarr.json'}: its attributes are not a JSON object; copy it again")
        return ZarrNode(folder, metadata.get("node_type") == "array", metadata, attributes)
    if (folder / ".zarray").is_file():
        return ZarrNode(folder, True, _json(folder / ".zarray"), _json(folder / ".zattrs"))
    if (folder / ".zgroup").is_file() or (folder / ".zattrs").is_file():
        return ZarrNode(folder, False, {}, _json(folder / ".zattrs"))
    return None


def arrays_below(folder: Path, prefix: str = "", levels: int = _LEVELS) -> dict[str, ZarrNode]:
    """Return all arrays of a group by their path in it."""
    arrays: dict[str, ZarrNode] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if (inner := read_node(path)) is None:
            continue
        if inner.is_array:
            arrays[prefix + path.name] = inner
        elif levels > 1:
            arrays |= arrays_below(path, f"{prefix}{path.name}/", levels - 1)
    return arrays


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder, in bytes."""
    return sum((Path(parent) / name).stat().st_size for parent, _, names in os.walk(folder) for name in names)


def _chunks_below(folder: Path) -> tuple[int, int]:
    # number and bytes of all files that are not metadata
    files = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names if name not in _METADATA]
    return len(files), sum(path.stat().st_size for path in files)


def _require_no_pickle(source: ZarrNode) -> None:
    # numcodecs' codec `pickle` would run code that is in the data
    names = [str(c.get("id") or c.get("name")) for c in _dicts(source.metadata)]
    if any(name.rsplit(".", 1)[-1].lower() == "pickle" for name in names):
        raise InputRefused(f"{source.path}: holds pickled objects, which are never loaded; save it as numbers or text")


def _dicts(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(d for v in value.values() for d in _dicts(v))]
    return [d for v in value for d in _dicts(v)] if isinstance(value, list) else []


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"{path}: is not JSON ({error}); copy it again from the source") from error
    if not isinstance(content, dict):
        raise InputRefused(f"{path}: is not a JSON object; copy it again from the source")
    return content
