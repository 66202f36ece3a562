"""info: what any store or run folder holds, where it came from, and whether it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histoxai.errors import InputRefused
from histoxai.models.checkpoint import RUN, Run, open_run
from histoxai.store.records import read_json
from histoxai.store.shards import Store, ranges

SCHEMA = "histoxai.info/1"


def info(path: Path) -> dict[str, Any]:
    """Contents, lineage and completeness.

    Raises InputRefused where `path` is nothing of ours.
    """
    if not path.exists():
        raise InputRefused(f"{path}: no such store or run folder")
    if (path / RUN).is_file() or (path / "last" / "identity.json").is_file():
        return _run(path)
    if (path / "data.zarr").is_dir():
        return _store(path / "data.zarr") | {"page": str(path / "index.html")}
    return _store(path)


def _store(path: Path) -> dict[str, Any]:
    store = Store(path)
    header = store.header
    items = store.completeness()
    for item in items.values():
        item["missing"] = ranges(item["missing"])
    arrays = {p: store.array(p) for p in store.arrays()}
    more = {k: v for k, v in store.group.attrs.items() if k != "histoxai"}
    return {
        "schema": SCHEMA,
        "path": str(path),
        "kind": header["schema"],
        "complete": not any(i["missing"] for i in items.values()),
        "digest": store.digest(),
        "settings": header["settings"],
        "seed": header["seed"],
        **more,
        "parents": header["parents"],
        "versions": header["versions"],
        "run": header["run"],
        "items": items,
        "arrays": {p: {"shape": list(a.shape), "dtype": str(a.dtype).removesuffix("()")} for p, a in arrays.items()},
    }


def _run(path: Path) -> dict[str, Any]:
    if not (path / RUN).is_file():
        state = read_json(path / "last" / "state.json") or {}
        return {
            "schema": SCHEMA,
            "path": str(path),
            "kind": "run/1",
            "complete": False,
            "epochs": state.get("epoch", 0),
            **(read_json(path / "last" / "identity.json") or {}),
        }
    facts = open_run(path).facts
    kept = (
        "kind",
        "arch",
        "classes",
        "size",
        "mpp",
        "normalisation",
        "settings",
        "best_epoch",
        "epochs",
        "metrics",
    )
    rest = ("parents", "versions", "run", "weights")
    return {
        "schema": SCHEMA,
        "path": str(path),
        "complete": True,
        "digest": Run(path, facts).digest,
        **{k: facts[k] for k in (*kept, *rest)},
    }
