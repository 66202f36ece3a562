"""Stores and their items: write whole shards, read rows.

An item is a group of arrays under one name that are computed together. Its shard k covers rows [k S, (k + 1) S) of all
its arrays. A shard owns whole files, so tasks that write different shards never share one.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histoxai.core import resources
from histoxai.core.errors import Damaged, HistoxaiError, Incomplete, InputRefused
from histoxai.core.provenance import NUMERICS_VERSION, checksum, fingerprint, plain, versions
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.header import RootSnapshot, check_header, header_identity
from histoxai.store.records import (
    MAX_ROWS,
    bad_files,
    digest,
    is_done,
    item_names,
    read_item,
    read_record,
    record_path,
    with_checksum,
)
from histoxai.store.schema import VERSIONS, ArraySpec, open_group
from histoxai.store.sealing import changed_metadata, is_sealed, recorded_metadata
from histoxai.store.shard_reader import ChunkDamaged, Rows, open_rows
from histoxai.store.state import gaps_text, item_state, remake_command, repair_hint, with_force, with_output
from histoxai.store.storage import s3_mirror
from histoxai.store.storage.files import file_error, read_json, remove, require_inside, write_atomically, write_json


@dataclass(frozen=True)
class Item:
    """A named group of arrays that are computed together.

    specs: its arrays. parameters: everything that changes their numbers beside the store's settings, such as method
    and options. rows_per_step: rows that are computed together, so that an interrupted shard keeps finished rows; None
    for the whole shard. read_back: whether items that are computed after it read it from the store.
    """

    name: str
    specs: tuple[ArraySpec, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    rows_per_step: int | None = None
    read_back: bool = False

    @property
    def rows(self) -> int:
        return self.specs[0].shape[0]

    @property
    def shard(self) -> int:
        assert self.specs[0].shard is not None
        return self.specs[0].shard

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard)

    def span(self, shard: int) -> tuple[int, int]:
        """The rows [a, b) of a shard."""
        return shard * self.shard, min(self.rows, (shard + 1) * self.shard)

    def fingerprint(self, header: dict[str, Any]) -> str:
        """Return the checksum of all that changes the numbers: own settings, the store's, parents and version."""
        return fingerprint([NUMERICS_VERSION, self.name, self.parameters, header_identity(header)])


class Store:
    """A store, for reading and for filling.

    Raises InputRefused if `path` holds no store of histoxai, or one whose header is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = RootSnapshot(path)  # before anything is read
        self.group = open_group(path)
        self.header: dict[str, Any] = check_header(path, self.group.attrs["histoxai"])
        index = read_record(path, "index", 0)
        if index is not None and index.get("sealed") and not is_sealed(plain(dict(self.group.attrs))):
            raise InputRefused(f"{path}: its zarr.json differs from what was written; {repair_hint(path)}")
        self._rows: dict[str, Rows] = {}
        self._metadata: dict[str, str] = {}  # recorded text of each array's zarr.json
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._opened.check()

    @property
    def schema(self) -> str:
        return str(self.header["schema"])

    def fingerprint(self, item: Item) -> str:
        """Return `Item.fingerprint` in this store."""
        return item.fingerprint(self.header)

    # ---- items

    def missing(self, item: Item, shards: Iterable[int] | None = None, verify: bool = False) -> list[int]:
        """Return the shards that are not done: no record, another fingerprint, or a file of another size.

        shards: which ones to look at, None for all. verify: compare the files' checksums too.
        """
        fingerprint = self.fingerprint(item)
        shards = range(item.count) if shards is None else shards
        if read_item(self.path, item.name) is None:  # the item's own facts are lost: any run writes them again
            return list(shards)
        return [k for k in shards if not is_done(self.path, read_record(self.path, item.name, k), fingerprint, verify)]

    def write(self, item: Item, shard: int, arrays: dict[str, np.ndarray], seconds: float, **facts: Any) -> None:
        """Write one shard of every array of an item, then its record.

        arrays: path -> rows of that shard. seconds: compute time. facts: more entries of the record, such as threads.
        """
        self.require_same()
        a, b = item.span(shard)
        files = [self._write_file(spec, shard, arrays[spec.path], b - a) for spec in item.specs]
        record = {
            "of": [item.name, shard],
            "fingerprint": self.fingerprint(item),
            "parents": {k: v["digest"] for k, v in self.header["parents"].items()},
            "rows": [a, b],
            "files": files,
            "versions": versions(),
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or None,
            "seconds": round(seconds, 3),
            "peak_memory_mb": resources.peak_memory_mb(),
            "host": platform.node(),
            **facts,
        }
        require_inside(self.path, record_path(self.path, item.name, shard))
        write_json(record_path(self.path, item.name, shard), with_checksum(record))

    def _write_file(self, spec: ArraySpec, shard: int, rows: np.ndarray, expected: int) -> dict[str, Any]:
        if rows.shape != (expected, *spec.shape[1:]):
            raise AssertionError(f"{spec.path}: shard {shard} has shape {rows.shape}")
        self._rows.pop(spec.path, None)  # its reader may have the file open that this one replaces
        path = spec.file(shard)
        require_inside(self.path, self.path / path)
        data = spec.encode(rows)
        if data is None:
            remove(self.path / path)
            return {"path": path, "size": None, "all_fill": True}
        write_atomically(self.path / path, data)
        return {"path": path, "size": len(data), "checksum": checksum(data)}

    def require_same(self) -> None:
        """Raise HistoxaiError if another task removed the store, or started over with other settings."""
        if is_on_s3(self.path):
            s3_mirror.fetch(self.path / "zarr.json")
        root = read_json(self.path / "zarr.json")
        header = root.get("attributes", {}).get("histoxai") if isinstance(root, dict) else None
        identity = header_identity(self.header)
        if not isinstance(header, dict) or header_identity(check_header(self.path, header)) != identity:
            raise HistoxaiError(f"{self.path}: was removed or started over while this task was at work; it stops here")

    # ---- reading

    def digest(self, names: Sequence[str] | None = None) -> str:
        """Return the digest of the whole store, or of some of its items."""
        return digest(self.path, None if names is None else list(names))

    def completeness(self, verify: bool = False) -> dict[str, dict[str, Any]]:
        """Return the state of each item that the store has or should have, by name (`state.item_state`)."""
        names = dict.fromkeys(["index", *item_names(self.path), *self.header.get("items", [])])
        return {name: item_state(self.path, self.header, name, verify) for name in names}

    def require_complete(self, names: Sequence[str] | None = None) -> None:
        """Raise Incomplete for the first item with gaps, naming the command that fills them; names: None for all.

        Raises Damaged if ids, labels or splits differ from what was written.
        """
        for name, state in self.completeness().items():
            if state["missing"] and (names is None or name in names):
                raise Incomplete(gaps_text(self.path, name, state["missing"], state["command"]))
        # ids, labels and splits are small, and what people edit by hand: compare their checksums
        record = None if is_on_s3(self.path) else read_record(self.path, "index", 0)
        if record is not None and (changed := next(bad_files(self.path, record, True), None)):
            raise Damaged(
                f"{self.path}: {changed} is damaged, or was changed after it was written; make the store again: "
                f"`{with_force(self.creating_command())}`"
            )

    def arrays(self, folder: str = "") -> list[str]:
        """Return the paths of all arrays below a folder of the store, lost ones too.

        It looks for files: zarr's own listing warns about the records, which are no part of its hierarchy.
        """
        files = sorted((self.path / folder).rglob("zarr.json"))
        nodes = {f.parent.relative_to(self.path).as_posix(): f for f in files if f.parent != self.path}
        recorded = (name.rpartition("/")[0] for name in self._recorded())
        inside = f"{folder}/" if folder else ""
        nodes |= {path: self.path / path / "zarr.json" for path in recorded if f"{path}/".startswith(inside)}
        return sorted(path for path, file in nodes.items() if self._is_array(path, file))

    def _is_array(self, path: str, file: Path) -> bool:
        # Unreadable metadata counts as an array's, so that opening it raises the error.
        recorded = self._recorded().get(f"{path}/zarr.json")
        try:
            node = read_json(file) if recorded is None else json.loads(recorded)
        except (ValueError, RecursionError):
            return True
        return not isinstance(node, dict) or node.get("node_type") != "group"

    def has(self, path: str) -> bool:
        """Return whether the store has an array at this path, or should have it."""
        return f"{path}/zarr.json" in self._recorded() or (self.path / path / "zarr.json").exists()

    def _recorded(self) -> dict[str, str]:
        # Text of each zarr.json as recorded; read again while it is empty, since an item may be added later.
        if not self._metadata:
            self._metadata = recorded_metadata(self.path)
        return self._metadata

    def array(self, path: str) -> zarr.Array[Any]:
        """Open an array of the store.

        Raises InputRefused if the store has no array at this path, Damaged if its metadata differs from what was
        written, and Incomplete if its metadata is missing.
        """
        if path not in self._arrays:
            self._arrays[path] = self._open_array(path)
        return self._arrays[path]

    def _open_array(self, path: str) -> zarr.Array[Any]:
        self._check_metadata(path)
        try:
            array = self.group[path]
        except KeyError:
            raise InputRefused(f"{self.path}: has no array '{path}'") from None
        except OSError as error:
            raise file_error(self.path / path / "zarr.json", "read", error) from error
        except Exception as error:  # zarr raises many types for broken metadata
            raise self._metadata_damaged(path) from error
        if not isinstance(array, zarr.Array):
            raise InputRefused(f"{self.path}: '{path}' is not an array")
        if array.ndim == 0 or array.shape[0] > MAX_ROWS:
            raise InputRefused(f"{self.path}: array {path} claims the shape {array.shape}; is it damaged?")
        return array

    def _check_metadata(self, path: str) -> None:
        file = f"{path}/zarr.json"
        if file not in self._metadata:  # an item may have been added since
            self._metadata = recorded_metadata(self.path)
        recorded = {file: self._metadata[file]} if file in self._metadata else {}
        if recorded and not (self.path / file).exists():
            raise Incomplete(f"{self.path}: {file} is not there; {self._repair(path)}")
        if next(changed_metadata(self.path, recorded), None) is not None:
            raise self._metadata_damaged(path)

    def _metadata_damaged(self, path: str) -> Damaged:
        return Damaged(f"{self.path}: {path}/zarr.json is not what was written; {self._repair(path)}")

    def _repair(self, path: str) -> str:
        item = self._item_of(path)
        command = with_output(item[1], self.path) if item else self.creating_command()
        return f"`{command}` writes it again and keeps what is done"

    def creating_command(self) -> str:
        """Return the command that created the store, with its current path as output."""
        return with_output(str(self.header["run"]["command"]), self.path)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read rows [start, stop) of an array, None for its end; raises what `take` raises."""
        return self.take(path, range(*slice(start, stop).indices(self.array(path).shape[0])))

    def take(self, path: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read rows of an array by number, in any order: (k,) -> (k, ...).

        Raises Damaged if a chunk differs from what was written; the message names array, shard, patch and the command
        that makes it again.
        """
        if path not in self._rows:
            self._rows[path] = open_rows(
                self.path / path, self.array(path), lambda shard: self._check_absent(path, shard)
            )
        try:
            values = self._rows[path].take(np.asarray(rows, np.int64))
        except ChunkDamaged as damage:
            self._opened.check()
            raise self._damaged(path, damage) from None
        except OSError as error:
            self._opened.check()
            raise file_error(self.path / path, "read", error) from error
        self._opened.check()
        # Text comes as numpy's StringDType or as objects, by numpy's version; callers get plain str arrays.
        return np.array(values.tolist(), str).reshape(values.shape) if values.dtype.kind in "TO" else values

    def _item_of(self, path: str) -> tuple[str, str] | None:
        # Name and command of the item that an array belongs to; None for ids and labels, written with the store.
        for name in item_names(self.path):
            facts = read_item(self.path, name)
            if facts is not None and path in facts["arrays"]:
                return name, facts["command"]
        return None

    def _check_absent(self, path: str, shard: int) -> None:
        # A missing file means fill values, but only if its record says so.
        item = self._item_of(path)
        record = read_record(self.path, item[0] if item else "index", shard)
        file = ArraySpec(path, self.array(path).shape, np.uint8).file(shard)
        entry = next((f for f in record["files"] if f["path"] == file), None) if record else None
        if entry is not None and entry.get("size") is not None:
            raise ChunkDamaged(shard, shard * (self.array(path).shards or self.array(path).chunks)[0], "file missing")

    def _damaged(self, path: str, damage: ChunkDamaged) -> Damaged:
        item = self._item_of(path)
        if item is None:
            return Damaged(f"{self.path}: array {path} is damaged ({damage.reason}); {self._repair(path)}")
        patch = f"row {damage.row}"
        if path != "patch_id" and self.has("patch_id"):
            with suppress(Damaged):
                patch = f"patch {self.read('patch_id', damage.row, damage.row + 1)[0]} ({patch})"
        return Damaged(
            f"{self.path}: array {path}, shard {damage.shard}, {patch} is damaged: {damage.reason}; remake it: "
            f"`{remake_command(with_output(item[1], self.path), [damage.shard])}`"
        )


def open_store(path: Path, schema: str, made_by: str) -> Store:
    """Open an input store of a kind, such as `patches`; made_by: the command that makes such stores.

    Raises InputRefused if it is of another kind, or of a schema that this version does not read.
    """
    store = Store(path)
    kind, version = store.schema.split("/")
    if kind != schema:
        raise InputRefused(f"{path}: is a {kind} store; expected a {schema} store, as `histoxai {made_by}` makes it")
    known = VERSIONS.get(kind, 1)
    if int(version) > known:
        raise InputRefused(f"{path}: schema {store.schema} is newer than this histoxai; upgrade it")
    if int(version) < known:
        raise InputRefused(
            f"{path}: schema {store.schema} is of an older histoxai, and this one reads {kind}/{known}; make it again: "
            f"`{with_force(store.creating_command())}`"
        )
    return store
