"""The format on disk: how arrays are divided into files and encoded, and which schema versions exist.

`docs/format.md` specifies it. Bulk arrays are sharded, with one patch per inner chunk: blosc (zstd 1, bitshuffle), then
crc32c. Small arrays are one chunk with the same codecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from histoxai.core.errors import InputRefused
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.shard_writer import encode_chunk, encode_shard
from histoxai.store.state import repair_hint
from histoxai.store.storage import s3_mirror

SPLITS = ("none", "train", "validation", "test")
MASKS = ("tumor", "non_tumor")
# Current schema number of each kind of store; 1 for kinds that are not listed.
VERSIONS = {"patches": 2, "scores": 3}


def schema(kind: str) -> str:
    """Return the schema that this version writes for a kind of store, such as `scores/3`."""
    return f"{kind}/{VERSIONS.get(kind, 1)}"


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store.

    shard: rows per file; None for a small array that is written when the store is created. fill: value of rows that are
    not written. columns: names along the second axis, for the array's attributes. A shard has an inner chunk for each
    row, or is one plain chunk if rows are short.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    shard: int | None = None
    fill: Any = 0
    columns: tuple[str, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, uncompressed."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape[1:], dtype=np.int64))

    def file(self, shard: int) -> str:
        """Return the path of a shard's file in the store."""
        return "/".join([self.path, "c", str(shard), *["0"] * (len(self.shape) - 1)])

    def create(self, store: Any) -> zarr.Array[Any]:
        """Write the array's metadata to a zarr store, and no chunk."""
        shape = self.shape
        common: dict[str, Any] = {
            "name": self.path,
            "shape": shape,
            "dtype": str if self.dtype is str else np.dtype(self.dtype),
            "compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
        }
        if self.dtype is str:  # variable-length text: nothing to shuffle
            common["compressors"] = [BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle"), Crc32cCodec()]
        else:
            common["fill_value"] = self.fill
        if self.columns:
            common["attributes"] = {"columns": list(self.columns)}
        if self.shard is None:
            return zarr.create_array(store, chunks=tuple(max(1, n) for n in shape), **common)
        chunk = (self.shard, *shape[1:])
        if self._short():
            return zarr.create_array(store, chunks=chunk, **common)
        return zarr.create_array(store, chunks=(1, *shape[1:]), shards=chunk, **common)

    def _short(self) -> bool:
        # A row of a few hundred bytes is not worth its entry in a shard index and its codec headers.
        return self.row_bytes < 1024

    def encode(self, rows: np.ndarray) -> bytes | None:
        """Return the bytes of one shard's file as zarr would write them; None if every value is the fill.

        rows: (r, ...) with r <= shard. It encodes in memory, so that the caller can write the file atomically.
        """
        assert self.shard is not None
        rows = np.asarray(rows, self.dtype)
        length = self.shard
        return encode_chunk(rows, length, self.fill) if self._short() else encode_shard(rows, length, self.fill)


def index_specs(arrays: dict[str, np.ndarray]) -> list[tuple[ArraySpec, np.ndarray]]:
    """Return specs, with their data, of the small arrays that are written when a store is created (ids, labels)."""
    specs = []
    for path, data in arrays.items():
        dtype: Any = str if data.dtype.kind in "UO" else data.dtype
        specs.append((ArraySpec(path, data.shape, dtype), data))
    return specs


def open_group(path: Path) -> zarr.Group:
    """Open the root group of a store for reading; raise InputRefused if there is no store of histoxai."""
    if not path.exists():
        raise InputRefused(f"{path}: no such store")
    if is_on_s3(path) and not (path / "zarr.json").is_file():  # another task is about to fetch it
        s3_mirror.refresh(path)
    if not (path / "zarr.json").is_file():
        if (path / "_done").is_dir():
            raise InputRefused(f"{path}: its zarr.json is lost; {repair_hint(path)}")
        raise InputRefused(f"{path}: not a histoxai store (it has no zarr.json)")
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=False)
    except Exception as error:  # zarr raises many types for broken metadata
        raise InputRefused(f"{path}: its zarr.json is damaged ({error}); {repair_hint(path)}") from error
    if "histoxai" not in group.attrs and (path / "_done").is_dir():
        raise InputRefused(f"{path}: its zarr.json is not what was written; {repair_hint(path)}")
    if "histoxai" not in group.attrs:
        raise InputRefused(f"{path}: a Zarr group, but not made by histoxai")
    return group
