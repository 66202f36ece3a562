"""Work items: whole shards of a store, written once, atomically, by whoever takes them.

An item is (name, shard): shard k covers rows [k S, (k+1) S) of all arrays of that name, so it owns
whole files and no two items share one.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histoxai.errors import HistoxaiError, Incomplete, InputRefused
from histoxai.provenance import (
    NUMERICS_VERSION,
    checksum,
    fingerprint,
    plain,
    versions,
)
from histoxai.store.records import (
    DONE,
    digest,
    is_done,
    item_names,
    read_json,
    read_records,
    record_path,
    write_atomically,
    write_json,
)
from histoxai.store.schema import ArraySpec, open_group


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
        self.header: dict[str, Any] = _valid(path, self.group.attrs["histoxai"])

    @property
    def schema(self) -> str:
        return str(self.header["schema"])

    def fingerprint(self, item: Item) -> str:
        """Of all that changes an item's numbers: its own settings, the store's, the parents, our version."""
        return item_fingerprint(self.header, item)

    # ---- items

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
            "versions": versions(),
            "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or None,
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
        for name in dict.fromkeys([*item_names(self.path), *self.header.get("items", [])]):
            meta = read_json(self.path / DONE / name / "item.json")
            if not isinstance(meta, dict):
                # only `index`, one shard, needs none; any other item without its item.json has to be made again
                meta = {"rows": 1, "shard": 1, "fingerprint": None if name == "index" else ""}
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


def ranges(numbers: Sequence[int]) -> str:
    """[3, 17, 18, 19] -> "3,17-19", as `--shard` and `sbatch --array` read it."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def item_fingerprint(header: dict[str, Any], item: Item) -> str:
    """Of all that changes an item's numbers: its own settings, the store's, the parents, our version."""
    return fingerprint([NUMERICS_VERSION, item.name, item.what, identity(header)])


def _valid(path: Path, header: Any) -> dict[str, Any]:
    header = plain(dict(header)) if isinstance(header, Mapping) else {}
    kinds = {"schema": str, "settings": dict, "parents": dict, "run": dict}
    wrong = [k for k, t in kinds.items() if not isinstance(header.get(k), t)]
    wrong = wrong or [k for k, p in header["parents"].items() if not isinstance(p, dict) or "digest" not in p]
    if wrong or not re.fullmatch(r"\w+/\d+", header["schema"]) or not isinstance(header["run"].get("command"), str):
        raise InputRefused(
            f"{path}: its zarr.json is damaged ({', '.join(wrong) or 'schema, run'}); make the store again"
        )
    return header


def identity(header: dict[str, Any]) -> dict[str, Any]:
    """What of a header changes numbers: not versions, paths, or the run itself."""
    parents = {k: v["digest"] for k, v in header["parents"].items()}
    return {k: header.get(k) for k in ("schema", "settings", "seed")} | {"parents": parents}
