"""Show the summary of `ingest` as a table."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table


def counts(summary: dict[str, Any]) -> Table:
    """Count patches by class after `ingest`, the first column of the study's table 1."""
    title = f"{summary['output']}: {summary['patches']} patches, {summary['groups']} groups"
    table = Table(title, "class", "patches")
    for name, n in summary["classes"].items():
        table.add_row(name, f"{n:,}")
    if not summary["classes"]:
        table.add_row("(no classes; masks)" if summary["has_targets"] else "(no classes)", f"{summary['patches']:,}")
    return table
