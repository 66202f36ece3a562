"""Work items: whole shards of a store, written once, atomically, by whoever takes them.

An item is (name, shard): shard k covers rows [k S, (k+1) S) of all arrays of that name, so it owns
whole files and no two items share one.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
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
from histoxai.store.records import (
    MAX_ROWS,
    digest,
    is_done,
    is_item_name,
    item_names,
    read_item,
    read_record,
    record_path,
    with_checksum,
)
from histoxai.store.schema import VERSIONS, ArraySpec, open_group
from histoxai.store.sealing import changed_metadata, is_sealed, recorded_metadata
from histoxai.store.shard_reader import ChunkDamaged, Rows, open_rows
from histoxai.store.state import completeness, remake_command, repair_hint, require_complete, with_force, with_output
from histoxai.store.storage import s3_mirror
from histoxai.store.storage.files import file_error, read_json, remove, require_inside, write_atomically, write_json


@dataclass(frozen=True)
class Item:
    """All shards of one name: its arrays and everything that changes their numbers.

    what: method, options, and the like; with the store's settings it makes the fingerprint. piece: rows that
    are computed together, so that an interrupted shard keeps what it has; None: the whole shard.
    """

    name: str
    specs: tuple[ArraySpec, ...]
    what: dict[str, Any] = field(default_factory=dict)
    piece: int | None = None

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


class Store:
    """A store on disk that is being filled, or read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp, self._root = _stamp(path), _root(path)  # before anything is read
        self.group = open_group(path)
        self.header: dict[str, Any] = _valid(path, self.group.attrs["histoxai"])
        index = read_record(path, "index", 0)
        if index is not None and index.get("sealed") and not is_sealed(plain(dict(self.group.attrs))):
            raise InputRefused(f"{path}: its zarr.json is not what was written; {repair_hint(path)}")
        self._rows: dict[str, Rows] = {}
        self._documents: dict[str, str] = {}
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._require_not_replaced()

    @property
    def schema(self) -> str:
        return str(self.header["schema"])

    def fingerprint(self, item: Item) -> str:
        """Of all that changes an item's numbers: its own settings, the store's, the parents, our version."""
        return item_fingerprint(self.header, item)

    # ---- items

    def missing(self, item: Item, wanted: Iterable[int] | None = None, verify: bool = False) -> list[int]:
        """Shards that are not done: no record, another fingerprint, or a file of another size.

        wanted: only these are looked at. verify: files of another checksum are not done either.
        """
        mark = self.fingerprint(item)
        shards = range(item.count) if wanted is None else wanted
        if read_item(self.path, item.name) is None:  # what its shards share is lost: any run writes it again
            return list(shards)
        return [k for k in shards if not is_done(self.path, read_record(self.path, item.name, k), mark, verify)]

    def write(self, item: Item, shard: int, arrays: dict[str, np.ndarray], seconds: float, **facts: Any) -> None:
        """Write one shard of every array of an item, then its record.

        arrays: path -> rows of that shard. seconds: what the work took. facts: goes into the record
        (micro-batch, threads, ...).
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
        self._rows.pop(spec.path, None)  # a reader may hold the file that this one replaces
        path = spec.file(shard)
        require_inside(self.path, self.path / path)
        data = spec.encode(rows)
        if data is None:
            remove(self.path / path)
            return {"path": path, "size": None, "all_fill": True}
        write_atomically(self.path / path, data)
        return {"path": path, "size": len(data), "checksum": checksum(data)}

    def require_same(self) -> None:
        """Raise HistoxaiError where the store was removed, or started over with other settings, by another task."""
        if is_on_s3(self.path):
            s3_mirror.fetch(self.path / "zarr.json")
        found = read_json(self.path / "zarr.json")
        header = found.get("attributes", {}).get("histoxai") if isinstance(found, dict) else None
        if not isinstance(header, dict) or header_identity(_valid(self.path, header)) != header_identity(self.header):
            raise HistoxaiError(f"{self.path}: was removed or started over while this task was at work; it stops here")

    # ---- reading

    def digest(self, names: Sequence[str] | None = None) -> str:
        """Digest of the whole store or of some item names."""
        return digest(self.path, None if names is None else list(names))

    def completeness(self, verify: bool = False) -> dict[str, dict[str, Any]]:
        """Per item name its state (`store.state.item_state`)."""
        return completeness(self.path, self.header, verify)

    def require_complete(self, names: Sequence[str] | None = None) -> None:
        """Raise Incomplete for the first item, of these names, with gaps; says which command fills them."""
        require_complete(self.path, self.header, names)

    def arrays(self, folder: str = "") -> list[str]:
        """Paths of all arrays below a folder of the store.

        From the files, since zarr's own listing warns about our records, which are no part of its hierarchy.
        """
        metas = sorted((self.path / folder).rglob("zarr.json"))
        found = {m.parent.relative_to(self.path).as_posix(): m for m in metas if m.parent != self.path}
        lost = (name.rpartition("/")[0] for name in self._known())
        found |= {
            path: self.path / path / "zarr.json"
            for path in lost
            if f"{path}/".startswith(f"{folder}/" if folder else "")
        }
        return sorted(path for path, meta in found.items() if self._is_array(path, meta))

    def _is_array(self, path: str, meta: Path) -> bool:
        # what cannot be told is taken for one: whoever opens it gets the error
        told = self._known().get(f"{path}/zarr.json")
        try:
            node = read_json(meta) if told is None else json.loads(told)
        except (ValueError, RecursionError):
            return True
        return not isinstance(node, dict) or node.get("node_type") != "group"

    def has(self, path: str) -> bool:
        """Whether the store has an array of that name, or should have it."""
        return f"{path}/zarr.json" in self._known() or (self.path / path / "zarr.json").exists()

    def _known(self) -> dict[str, str]:
        # what metadata should say; an item may have been added since it was looked up
        if not self._documents:
            self._documents = recorded_metadata(self.path)
        return self._documents

    def array(self, path: str) -> zarr.Array[Any]:
        """An array of the store.

        Raises InputRefused where the store has none of that name, Damaged where its metadata is not what was written.
        """
        if path not in self._arrays:
            self._arrays[path] = self._open_array(path)
        return self._arrays[path]

    def _open_array(self, path: str) -> zarr.Array[Any]:
        file = f"{path}/zarr.json"
        if file not in self._documents:  # an item may have been added since
            self._documents = recorded_metadata(self.path)
        wanted = {file: self._documents[file]} if file in self._documents else {}
        if wanted and not (self.path / file).exists():
            raise Incomplete(f"{self.path}: {file} is not there; {self._mended(path)}")
        if next(changed_metadata(self.path, wanted), None) is not None:
            raise self._metadata_damaged(path)
        try:
            found = self.group[path]
        except KeyError:
            raise InputRefused(f"{self.path}: has no array '{path}'") from None
        except OSError as error:
            raise file_error(self.path / file, "read", error) from error
        except Exception as error:  # zarr raises many types for broken metadata
            raise self._metadata_damaged(path) from error
        if not isinstance(found, zarr.Array):
            raise InputRefused(f"{self.path}: '{path}' is not an array")
        if found.ndim == 0 or found.shape[0] > MAX_ROWS:
            raise InputRefused(f"{self.path}: array {path} claims the shape {found.shape}; is it damaged?")
        return found

    def _metadata_damaged(self, path: str) -> Damaged:
        return Damaged(f"{self.path}: {path}/zarr.json is not what was written; {self._mended(path)}")

    def _mended(self, path: str) -> str:
        item = self._item_of(path)
        command = with_output(item[1] if item else self.header["run"]["command"], self.path)
        return f"`{command}` writes it again and keeps what is done"

    def read(self, path: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of an array.

        Raises Damaged where a chunk is not what was written.
        """
        return self.take(path, range(*slice(start, stop).indices(self.array(path).shape[0])))

    def take(self, path: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows of an array by number, in any order.

        Raises Damaged where a chunk is not what was written, naming array, shard and patch and the command
        that remakes it.
        """
        if path not in self._rows:
            self._rows[path] = open_rows(
                self.path / path, self.array(path), lambda shard: self._check_absent(path, shard)
            )
        try:
            found = self._rows[path].take(np.asarray(rows, np.int64))
        except ChunkDamaged as damage:
            self._require_not_replaced()
            raise self._damaged(path, damage) from None
        except OSError as error:
            self._require_not_replaced()
            raise file_error(self.path / path, "read", error) from error
        self._require_not_replaced()
        # Text comes as numpy's StringDType or as objects, by numpy's version; plain str arrays for all.
        return np.array(found.tolist(), str).reshape(found.shape) if found.dtype.kind in "TO" else found

    def _require_not_replaced(self) -> None:
        # shards of two stores in one result would be nobody's numbers; after each read, which is then of the old one
        if self._stamp == (now := _stamp(self.path)):
            return
        if self._root != _root(self.path):
            raise HistoxaiError(f"{self.path}: was made again, or removed, while it was read; run the command again")
        self._stamp = now  # its permissions were changed, say, or it was moved to another disk

    def _item_of(self, path: str) -> tuple[str, str] | None:
        # the item that an array belongs to and its command; None for ids and labels, which come with the store
        for name in item_names(self.path):
            facts = read_item(self.path, name)
            if facts is not None and path in facts["arrays"]:
                return name, facts["command"]
        return None

    def _check_absent(self, path: str, shard: int) -> None:
        # A file that is not there stands for fill values, but only where its record says so.
        found = self._item_of(path)
        record = read_record(self.path, found[0] if found else "index", shard)
        file = ArraySpec(path, self.array(path).shape, np.uint8).file(shard)
        entry = next((f for f in record["files"] if f["path"] == file), None) if record else None
        if entry is not None and entry.get("size") is not None:
            raise ChunkDamaged(shard, shard * (self.array(path).shards or self.array(path).chunks)[0], "file missing")

    def _damaged(self, path: str, damage: ChunkDamaged) -> Damaged:
        found = self._item_of(path)
        if found is None:
            command = with_output(self.header["run"]["command"], self.path)
            return Damaged(
                f"{self.path}: array {path} is damaged ({damage.reason}); `{command}` writes it again and keeps "
                "what is done"
            )
        patch = f"row {damage.row}"
        if path != "patch_id" and self.has("patch_id"):
            with suppress(Damaged):
                patch = f"patch {self.read('patch_id', damage.row, damage.row + 1)[0]} ({patch})"
        return Damaged(
            f"{self.path}: array {path}, shard {damage.shard}, {patch} is damaged: {damage.reason}; remake it: "
            f"`{remake_command(with_output(found[1], self.path), [damage.shard])}`"
        )


def _stamp(path: Path) -> tuple[int, ...] | None:
    # of the root's `zarr.json`, for a quick look: a store that is made again has another; None on storage, where it is
    # fetched anew
    if is_on_s3(path):
        return None
    try:
        found = (path / "zarr.json").stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _root(path: Path) -> bytes:
    # what the root's `zarr.json` says: when and with which settings the store was made
    try:
        return b"" if is_on_s3(path) else (path / "zarr.json").read_bytes()
    except OSError:
        return b""


def open_store(path: Path, schema: str, made_by: str) -> Store:
    """Open an input store of a given kind (`patches`, `masks`, ...).

    Raises InputRefused where it is of another kind, saying which command makes the right one.
    """
    store = Store(path)
    kind, version = store.schema.split("/")
    if kind != schema:
        raise InputRefused(f"{path}: is a {kind} store; expected a {schema} store, as `histoxai {made_by}` makes it")
    known = VERSIONS.get(kind, 1)
    if int(version) > known:
        raise InputRefused(f"{path}: schema {store.schema} is newer than this histoxai; upgrade it")
    if int(version) < known:
        command = with_output(store.header["run"]["command"], path)
        raise InputRefused(
            f"{path}: schema {store.schema} is of an older histoxai, and this one reads {kind}/{known}; make it again: "
            f"`{with_force(command)}`"
        )
    return store


def item_fingerprint(header: dict[str, Any], item: Item) -> str:
    """Of all that changes an item's numbers: its own settings, the store's, the parents, our version."""
    return fingerprint([NUMERICS_VERSION, item.name, item.what, header_identity(header)])


def _valid(path: Path, header: Any) -> dict[str, Any]:
    header = plain(dict(header)) if isinstance(header, Mapping) else {}
    kinds = {"schema": str, "settings": dict, "parents": dict, "run": dict}
    wrong = [k for k, t in kinds.items() if not isinstance(header.get(k), t)]
    names = header.get("items", [])
    wrong = wrong or ([] if isinstance(names, list) and all(map(is_item_name, names)) else ["items"])
    wrong = wrong or [k for k, p in header["parents"].items() if not isinstance(p, dict) or "digest" not in p]
    if wrong or not re.fullmatch(r"\w+/\d+", header["schema"]) or not isinstance(header["run"].get("command"), str):
        raise InputRefused(
            f"{path}: its zarr.json is damaged ({', '.join(wrong) or 'schema, run'}); {repair_hint(path)}"
        )
    return header


def header_identity(header: dict[str, Any]) -> dict[str, Any]:
    """What of a header changes numbers: not versions, paths, or the run itself."""
    parents = {k: v["digest"] for k, v in header["parents"].items()}
    return {k: header.get(k) for k in ("schema", "settings", "seed")} | {"parents": parents}
