"""Work items: whole shards of a store, written once, atomically, by whoever takes them.

An item is (name, shard): shard k covers rows [k S, (k+1) S) of all arrays of that name, so it owns
whole files and no two items share one. Stores are made under a temporary name and renamed; of several
makers one wins and the others check that they meant the same.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histoxai.errors import HistoxaiError, Incomplete, InputRefused, SettingsDiffer
from histoxai.provenance import (
    NUMERICS_VERSION,
    checksum,
    file_checksum,
    fingerprint,
    first_difference,
    plain,
)
from histoxai.store.records import (
    DONE,
    digest,
    is_done,
    item_names,
    read_json,
    read_records,
    record_path,
    sync_folder,
    write_atomically,
    write_json,
)
from histoxai.store.schema import ArraySpec, index_specs, open_group


@dataclass(frozen=True)
class Item:
    """All shards of one name: its arrays and everything that changes their numbers.

    what: method, options, and the like; with the store's settings it makes the fingerprint.
    """

    name: str
    specs: tuple[ArraySpec, ...]
    what: dict[str, Any] = field(default_factory=dict)

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
        self.group = open_group(path)
        self.header: dict[str, Any] = plain(dict(self.group.attrs["histoxai"]))

    @property
    def schema(self) -> str:
        return str(self.header["schema"])

    def fingerprint(self, item: Item) -> str:
        """Of all that changes an item's numbers: its own settings, the store's, the parents, our version."""
        return fingerprint([NUMERICS_VERSION, item.name, item.what, _identity(self.header)])

    # ---- items

    def add(self, item: Item) -> None:
        """Make an item's arrays where they are missing; race-safe.

        Raises SettingsDiffer where the name exists with other settings.
        """
        place = self.path / DONE / item.name / "item.json"
        meta = {"name": item.name, "what": plain(item.what), "fingerprint": self.fingerprint(item)}
        if not place.exists():
            for spec in item.specs:
                _create_beside(self.path, spec)
            facts = {"rows": item.rows, "shard": item.shard, "arrays": [s.path for s in item.specs]}
            _write_new(place, {**meta, **facts, "command": run_facts()["command"]})
        found = read_json(place)
        if found is None or found["fingerprint"] != meta["fingerprint"]:
            raise _differs(self.path, found and found["what"], item.what, f"'{item.name}' in ")

    def missing(self, item: Item) -> list[int]:
        """Shards that are not done: no record, another fingerprint, or a file of another size."""
        mark = self.fingerprint(item)
        records = read_records(self.path, item.name)
        return [k for k in range(item.count) if not is_done(self.path, records.get(k), mark)]

    def write(self, item: Item, shard: int, arrays: dict[str, np.ndarray], started: float, **facts: Any) -> None:
        """Write one shard of every array of an item, then its record.

        arrays: path -> rows of that shard. started: time.perf_counter() at the beginning of the work.
        facts: goes into the record (micro-batch, threads, ...).
        """
        a, b = item.span(shard)
        files = [self._write_file(spec, shard, arrays[spec.path], b - a) for spec in item.specs]
        record = {
            "fingerprint": self.fingerprint(item),
            "parents": {k: v["digest"] for k, v in self.header["parents"].items()},
            "rows": [a, b],
            "files": files,
            "versions": self.header["versions"],
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "host": platform.node(),
            **facts,
        }
        write_json(record_path(self.path, item.name, shard), record)

    def _write_file(self, spec: ArraySpec, shard: int, rows: np.ndarray, expected: int) -> dict[str, Any]:
        if rows.shape != (expected, *spec.shape[1:]):
            raise AssertionError(f"{spec.path}: shard {shard} has shape {rows.shape}")
        path = spec.file(shard)
        data = spec.encode(rows)
        if data is None:
            (self.path / path).unlink(missing_ok=True)
            return {"path": path, "size": None, "all_fill": True}
        write_atomically(self.path / path, data)
        return {"path": path, "size": len(data), "checksum": checksum(data)}

    # ---- reading

    def digest(self, names: Sequence[str] | None = None) -> str:
        """Digest of the whole store or of some item names."""
        return digest(self.path, None if names is None else list(names))

    def completeness(self) -> dict[str, dict[str, Any]]:
        """Per item name: number of shards, the missing ones, and the seconds that the others took."""
        table = {}
        for name in item_names(self.path):
            meta = read_json(self.path / DONE / name / "item.json") or {
                "rows": 1,
                "shard": 1,
                "fingerprint": None,
            }
            count = -(-meta["rows"] // meta["shard"])
            records = read_records(self.path, name)
            missing = [k for k in range(count) if not is_done(self.path, records.get(k), meta["fingerprint"])]
            seconds = round(sum(r.get("seconds", 0) for r in records.values()), 3)
            table[name] = {
                "shards": count,
                "missing": missing,
                "seconds": seconds,
                "what": meta.get("what", {}),
                "command": meta.get("command", self.header["run"]["command"]),
            }
        return table

    def require_complete(self, sharded: bool = False) -> None:
        """Raise Incomplete for the first item with gaps, naming them and the command that fills them.

        sharded: whether that command takes `--shard`.
        """
        for name, table in self.completeness().items():
            if table["missing"]:
                shards = ranges(table["missing"])
                command = re.sub(r" --shard[ =]\S+", "", table["command"]) + (f" --shard {shards}" if sharded else "")
                noun = "shard" if len(table["missing"]) == 1 else "shards"
                raise Incomplete(f"{self.path}: '{name}' lacks {noun} {shards}; run `{command}`")

    def arrays(self, folder: str = "") -> list[str]:
        """Paths of all arrays below a folder of the store.

        From the files, since zarr's own listing warns about our records, which are no part of its hierarchy.
        """
        metas = sorted((self.path / folder).rglob("zarr.json"))
        found = {m.parent.relative_to(self.path).as_posix() for m in metas if m.parent != self.path}
        return sorted(p for p in found if isinstance(self.group[p], zarr.Array))

    def array(self, path: str) -> zarr.Array[Any]:
        """An array of the store.

        Raises InputRefused where the store has none of that name.
        """
        try:
            found = self.group[path]
        except KeyError:
            raise InputRefused(f"{self.path}: has no array '{path}'") from None
        if not isinstance(found, zarr.Array):
            raise InputRefused(f"{self.path}: '{path}' is not an array")
        return found

    def read(self, path: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of an array.

        Raises HistoxaiError where a chunk's checksum does not match.
        """
        array = self.array(path)
        try:
            rows = np.asarray(array[start:stop])
        except Exception as error:  # zarr passes on whatever the codec raised
            raise HistoxaiError(
                f"{self.path}: array {path}, rows {start} to {stop}: damaged ({error}); "
                "remake the store with the command in `histoxai info`"
            ) from error
        # Text comes as numpy's StringDType or as objects, by numpy's version; plain str arrays for all.
        return np.array([str(t) for t in rows]) if rows.dtype.kind in "TO" else rows


def open_store(path: Path, schema: str, made_by: str) -> Store:
    """Open an input store of a given kind (`patches`, `masks`, ...).

    Raises InputRefused where it is of another kind, saying which command makes the right one.
    """
    store = Store(path)
    kind, version = store.schema.split("/")
    if kind != schema:
        raise InputRefused(f"{path}: is a {kind} store; expected a {schema} store, as `histoxai {made_by}` makes it")
    if version != "1":
        raise InputRefused(f"{path}: schema {store.schema} is newer than this histoxai; upgrade it")
    return store


def create_or_match(
    path: Path,
    header: dict[str, Any],
    index: dict[str, np.ndarray],
    items: Iterable[Item],
    *,
    attrs: dict[str, Any] | None = None,
    force: bool = False,
) -> Store:
    """Make a store with its index arrays and empty items, or open the one that is there.

    Raises SettingsDiffer where an existing store was made with other settings, seed or parents, and
    InputRefused where `path` holds something else.
    """
    items = list(items)
    if force and path.exists():
        discard(path)
    if not path.exists():
        _create(path, header, index, items, attrs or {})
    store = Store(path)
    if difference := first_difference(_identity(store.header), _identity(header)):
        raise SettingsDiffer(_difference_text(path, *difference))
    for item in items:
        store.add(item)
    return store


def discard(path: Path) -> None:
    """Remove a store: out of sight by a rename first, so that nobody opens half of it."""
    if not (path / "zarr.json").is_file() and any(path.iterdir()):
        raise InputRefused(f"{path}: is not a histoxai store; it will not be replaced")
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    os.rename(path, grave)
    shutil.rmtree(grave)


def ranges(numbers: Sequence[int]) -> str:
    """[3, 17, 18, 19] -> "3,17-19", as `--shard` and `sbatch --array` read it."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _identity(header: dict[str, Any]) -> dict[str, Any]:
    # Versions, paths and the run itself do not change numbers.
    parents = {k: v["digest"] for k, v in header["parents"].items()}
    return {k: header[k] for k in ("schema", "settings", "seed")} | {"parents": parents}


def _create(
    path: Path, header: dict[str, Any], index: dict[str, np.ndarray], items: list[Item], attrs: dict[str, Any]
) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.open_group(temporary, mode="w-", attributes={"histoxai": header, **attrs})
        for folder in sorted({"/".join(s.path.split("/")[:-1]) for item in items for s in item.specs} - {""}):
            root.require_group(folder)
        files = []
        for spec, data in index_specs(index):
            spec.create(temporary)[...] = data
            file = temporary / spec.file(0)
            size = file.stat().st_size if file.exists() else None
            files.append({"path": spec.file(0), "size": size})
            if size is not None:
                files[-1]["checksum"] = file_checksum(file)
        record = {
            "fingerprint": fingerprint([NUMERICS_VERSION, "index", _identity(header), attrs]),
            "files": files,
        }
        write_json(record_path(temporary, "index", 0), record)
        for item in items:
            for spec in item.specs:
                spec.create(temporary)
        sync_folder(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.exists():
                raise
            return  # another task was quicker; the caller checks that it meant the same
        sync_folder(path.parent)
    except OSError as error:
        raise HistoxaiError(f"{path}: cannot be created: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _create_beside(root: Path, spec: ArraySpec) -> None:
    place = root / spec.path
    if (place / "zarr.json").exists():
        return
    temporary = root / DONE / f".{uuid.uuid4().hex[:8]}.tmp"
    parent = "/".join(spec.path.split("/")[:-1])
    if parent:
        zarr.open_group(root, mode="a", use_consolidated=False).require_group(parent)
    spec.create(temporary, name="array")
    try:
        os.rename(temporary / "array", place)
    except OSError:
        if not (place / "zarr.json").exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_new(path: Path, value: Any) -> None:
    # A link fails where the name exists, so the first of several makers wins for good.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp")
    write_json(temporary, value)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _difference_text(path: Path, name: str, old: Any, new: Any, where: str = "") -> str:
    if name.startswith("parents."):
        return (
            f"{path}: was made from another {name.split('.')[1]} (digest {old}, now {new}); "
            "choose another output, or --force to start over"
        )
    return (
        f"{where}{path}: exists with {name.split('.', 1)[-1]} = {old}, asked for {new}; "
        "choose another output, or --force to start over"
    )


def _differs(path: Path, old: Any, new: Any, where: str) -> SettingsDiffer:
    name, a, b = first_difference(old or {}, new) or ("settings", "others", "these")
    return SettingsDiffer(_difference_text(path, name, a, b, where))
