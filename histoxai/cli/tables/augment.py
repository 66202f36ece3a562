"""Show the summary of `augment` as a table."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table


def plan(summary: dict[str, Any]) -> Table:
    """Show patches by class and split after `augment`, as the study's table 1."""
    title = f"split by {summary['split_by']}{'' if summary['rotate'] else ', without rotated copies'}"
    table = Table(title, "class", "patches", "after rotation", "train", "validation", "test")
    for row in summary["table"]:
        counts = (row[name] for name in ("patches", "rotated", "train", "validation", "test"))
        table.add_row(row["class"], *[f"{n:,}" for n in counts])
    return table
