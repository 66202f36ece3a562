"""Write the tables of the docs that are made from the code, between their markers; a test checks that they are current.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; TABLES has the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from histoxai.explain.catalogue import markdown_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES: dict[str, Callable[[], str]] = {"methods": markdown_table}


def with_tables(page: str) -> str:
    """The page with every marked table made anew."""

    def table(marked: re.Match[str]) -> str:
        return f"{marked[1]}\n{TABLES[marked[2]]()}\n{marked[3]}"

    return re.sub(r"(<!-- table: (\w+) -->).*?(<!-- end of table -->)", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        if (after := with_tables(before)) != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path}: tables written")
