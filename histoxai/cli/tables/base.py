"""Tables of plain text, and the way they write numbers."""

from __future__ import annotations

from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from histoxai.core.digits import FEWEST, fixed


class Table(RichTable):
    """A table whose titles and cells are plain text: a class named `[red]` is no markup.

    columns: headers, the first one aligned left and all others right.
    """

    def __init__(self, title: str, *columns: str, **options: Any) -> None:
        super().__init__(title=Text(title, justify="left"), **options)
        for number, name in enumerate(columns):
            self.add_column(name, justify="right" if number else "left")

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*[Text(str(c)) for c in cells], **options)

    def add_column(self, header: Any = "", *rest: Any, **options: Any) -> None:
        super().add_column(Text(str(header)), *rest, **options)


def number(value: float | None, decimals: int = FEWEST) -> str:
    return fixed(value, decimals, "-")


def partial(summary: dict[str, Any]) -> str:
    """Return the mark before the title of a table that lacks patches; empty where none is missing."""
    counts = summary.get("partial")
    return f"PARTIAL, {counts['patches']} of {counts['of']} patches: " if counts else ""


def small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
