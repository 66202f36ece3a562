"""Show the summary of `info` as tables."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table
from histoxai.cli.tables.explain import checks


def store(summary: dict[str, Any]) -> list[Table]:
    """Show facts of a store, the state of each item, and the arrays."""
    facts = Table(title=summary["path"], show_header=False)
    facts.add_column("fact")
    facts.add_column("value")
    for key, value in summary.items():
        if key in ("path", "items", "arrays", "schema", "checks") or (
            key in ("failed", "partial", "verified") and not value
        ):
            continue
        if isinstance(value, dict):
            value = "\n".join(f"{k}: {v}" for k, v in value.items())
        facts.add_row(key.replace("_", " "), "\n".join(value) if key == "failed" else str(value))
    tables = [facts]
    if summary.get("items"):
        tables.append(_items(summary["items"], summary["verified"]))
    if summary.get("checks"):
        tables.append(checks(summary["checks"]))
    if summary.get("arrays"):
        arrays = Table(title="arrays")
        for column in ("array", "shape", "dtype"):
            arrays.add_column(column)
        for name, array in summary["arrays"].items():
            arrays.add_row(name, " x ".join(map(str, array["shape"])), array["dtype"])
        tables.append(arrays)
    return tables


def _items(items: dict[str, dict[str, Any]], verified: bool) -> Table:
    table = Table(title="work items" + (", checksums recomputed" if verified else ""))
    for column in ("item", "shards done", "missing", *(["failed"] if verified else []), "seconds a shard", "peak MB"):
        table.add_column(column, justify="left" if column in ("item", "missing", "failed") else "right")
    table.add_column("hosts")
    with_engines = any(_engine(item) for item in items.values())
    if with_engines:
        table.add_column("engine")
    for name, item in items.items():
        seconds = sorted(r["seconds"] for r in item["records"] if r["seconds"] is not None)
        hosts = ", ".join(f"{h} {n}" for h, n in item["hosts"].items())
        table.add_row(
            name,
            f"{item['done']} of {item['shards']}",
            item["missing"] or "-",
            *([item["failed"] or "-"] if verified else []),
            f"{seconds[len(seconds) // 2]:.1f}, at most {seconds[-1]:.1f}" if seconds else "-",
            item["peak_memory_mb"] or "-",
            hosts or "-",
            *([_engine(item) or "-"] if with_engines else []),
        )
    return table


def _engine(item: dict[str, Any]) -> str:
    # who computed the maps of a method; empty for other items
    what = item.get("what") or {}
    return (what.get("library") or "histoxai") if what.get("method") else ""
