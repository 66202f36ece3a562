"""Show the summary of `augment` as a table."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table


def plan(summary: dict[str, Any]) -> Table:
    """Show patches by class and split after `augment`, as the study's table 1."""
    table = Table(title=f"split by {summary['split_by']}")
    table.add_column("class")
    columns = {
        "patches": "patches",
        "rotated": "after rotation",
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    for words in columns.values():
        table.add_column(words, justify="right")
    for row in summary["table"]:
        table.add_row(row["class"], *[f"{row[c]:,}" for c in columns])
    return table
