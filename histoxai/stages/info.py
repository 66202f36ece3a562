"""info: the content, origin and completeness of any store or run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.errors import Damaged, Incomplete, InputRefused
from histoxai.explain.checks import summarise
from histoxai.networks.run_folder import RUN, WEIGHTS, Run, open_run
from histoxai.store.shards import Store
from histoxai.store.state import format_ranges, remake_command
from histoxai.store.storage.files import read_json

SCHEMA = "histoxai.info/1"


def info(path: Path, verify: bool = False) -> dict[str, Any]:
    """Return content, lineage and completeness; with `verify` recompute all checksums.

    Raises InputRefused if `path` is no store or run folder of histoxai.
    """
    if not path.exists():
        raise InputRefused(f"{path}: no such store or run folder")
    if (path / RUN).is_file() or (path / "last" / "identity.json").is_file():
        facts = _run(path, verify)
    elif (path / "data.zarr").is_dir():
        facts = _store(path / "data.zarr", verify) | {"page": str(path / "index.html")}
    else:
        facts = _store(path, verify)
    return facts | {"verified": verify}


def raise_if_damaged(summary: dict[str, Any]) -> None:
    """Raise Damaged for failed checksums, or Incomplete for gaps, with the commands that repair them.

    Gaps are an error only with `--verify`.
    """
    if summary.get("failed"):
        raise Damaged(f"{summary['path']}: " + "; ".join(summary["failed"]))
    if summary["verified"] and not summary["complete"]:
        gaps = {name: item for name, item in summary.get("items", {}).items() if item["missing"]}
        if not gaps:
            raise Incomplete(f"{summary['path']}: training has not finished; run it again to go on")
        store = Store(Path(summary["path"]))
        store.require_complete()


def _store(path: Path, verify: bool) -> dict[str, Any]:
    store = Store(path)
    header = store.header
    items = store.completeness(verify)
    arrays = {p: store.array(p) for p in store.arrays()}
    more = {k: v for k, v in store.group.attrs.items() if k != "histoxai"}
    failed = list(_failures(header, items))
    try:
        checks = summarise(store) if header["schema"] == "maps/1" else {}
    except Damaged as damage:
        failed, checks = [*failed, str(damage)], {}
    return {
        "schema": SCHEMA,
        "path": str(path),
        "kind": header["schema"],
        "complete": not any(i["missing"] for i in items.values()),
        "failed": failed,
        "digest": store.digest(),
        "settings": header["settings"],
        "seed": header["seed"],
        **more,
        "parents": header["parents"],
        "versions": header["versions"],
        "run": header["run"],
        "partial": header.get("partial"),
        **({"checks": checks} if checks else {}),
        "items": {name: _plain(item) for name, item in items.items()},
        "arrays": {p: {"shape": list(a.shape), "dtype": str(a.dtype).removesuffix("()")} for p, a in arrays.items()},
    }


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"done": len(item["records"])} | {k: format_ranges(item[k]) for k in ("missing", "failed")}


def _failures(header: dict[str, Any], items: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, item in items.items():
        if item["failed"]:
            command = remake_command(item["command"], item["failed"])
            if name == "index":  # ids and labels: everything rests on them
                command = f"{header['run']['command']} --force"
            yield f"'{name}' fails its checksums in shard {format_ranges(item['failed'])}; remake it: `{command}`"


_RUN_FACTS = (
    *("kind", "arch", "classes", "size", "mpp", "normalisation", "settings", "best_epoch", "epochs", "metrics"),
    *("parents", "versions", "run", "weights"),
)


def _run(path: Path, verify: bool) -> dict[str, Any]:
    if not (path / RUN).is_file():
        return _unfinished_run(path)
    run = open_run(path)
    facts = run.facts
    more = {"pretrained": facts.get("pretrained"), "notice": run.notice}
    return {
        "schema": SCHEMA,
        "path": str(path),
        "complete": True,
        "failed": list(_run_failures(path, facts)) if verify else [],
        "digest": run.digest,
        **{k: facts[k] for k in _RUN_FACTS},
        **{k: v for k, v in more.items() if v},
    }


def _unfinished_run(path: Path) -> dict[str, Any]:
    checkpoints = map(read_json, sorted((path / "last").glob("at-*.json"), reverse=True))
    state: dict[str, Any] = next((c["state"] for c in checkpoints if isinstance(c, dict) and "state" in c), {})
    return {
        "schema": SCHEMA,
        "path": str(path),
        "kind": "run/1",
        "complete": False,
        "epochs": state.get("epoch", 0),
        **(read_json(path / "last" / "identity.json") or {}),
    }


def _run_failures(path: Path, facts: dict[str, Any]) -> Iterator[str]:
    weights, remedy = path / WEIGHTS, Run(path, facts).remedy
    if not weights.is_file() or provenance.file_checksum(weights) != facts["weights"]["checksum"]:
        yield f"{WEIGHTS} fails its checksum; {remedy}"
    for child in sorted(path.glob("*.zarr")):
        state = Store(child).completeness(verify=True)
        if any(item["failed"] or item["missing"] for item in state.values()):
            yield f"{child.name} fails its checksums; {remedy}"
