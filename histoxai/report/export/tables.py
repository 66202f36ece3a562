"""Write tables as CSV, LaTeX (booktabs) and Markdown, with every name escaped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histoxai.core.digits import FEWEST, decimals_for, fixed

_LATEX_ESCAPES = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "“": "``",
    "”": "''",
    "×": r"$\times$",
}


@dataclass(frozen=True)
class Table:
    """A table: name of its files, caption, heads of its columns, and rows of texts, numbers and None.

    digits: column -> the columns of means that it is rounded like, with as many decimals as tell these apart. by: the
    columns whose texts say which rows are compared with each other. differences: columns of `digits` that hold
    differences, which are told from 0 too.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    digits: Mapping[int, Sequence[int]] = field(default_factory=dict)
    by: Sequence[int] = ()
    differences: Sequence[int] = ()

    def csv(self) -> bytes:
        """Return the table with all digits; undefined values are empty, and formulas of spreadsheets are quoted."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_without_formula(c) for c in self.columns])
        for row in self.rows:
            writer.writerow(["" if _undefined(v) else _without_formula(v) if isinstance(v, str) else v for v in row])
        return out.getvalue().encode()

    def markdown(self) -> bytes:
        """Return a pipe table under its caption, with rounded numbers."""
        lines = [self.columns, ["---" if text else "---:" for text in self._text_columns()]]
        lines += self._rounded_rows()
        body = ["| " + " | ".join(escape_markdown(c) for c in line) + " |" for line in lines]
        return ("\n".join([escape_markdown(self.caption), "", *body]) + "\n").encode()

    def latex(self) -> bytes:
        """Return a `table` environment with booktabs rules and rounded numbers."""
        shape = "".join("l" if text else "r" for text in self._text_columns())
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(self.caption)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{shape}}}",
            r"\toprule",
            _latex_line(self.columns),
            r"\midrule",
            *(_latex_line(row) for row in self._rounded_rows()),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return ("\n".join(lines) + "\n").encode()

    def _rounded_rows(self) -> list[list[str]]:
        blocks = [tuple(row[k] for k in self.by) for row in self.rows]
        compared: dict[tuple[Any, ...], list[float | None]] = {}
        for block, row in zip(blocks, self.rows, strict=True):
            for columns in set(map(tuple, self.digits.values())):
                zero: list[float | None] = [0.0] if set(columns) & set(self.differences) else []
                compared.setdefault((block, columns), zero).extend(row[k] for k in columns)
        decimals = {key: decimals_for(means) for key, means in compared.items()}
        return [
            [_rounded(v, decimals.get((block, tuple(self.digits.get(k, ()))), FEWEST)) for k, v in enumerate(row)]
            for block, row in zip(blocks, self.rows, strict=True)
        ]

    def _text_columns(self) -> list[bool]:
        return [any(isinstance(row[k], str) for row in self.rows) for k in range(len(self.columns))]


def escape_latex(text: str) -> str:
    """Escape a text so that LaTeX prints it as it is."""
    return "".join(_LATEX_ESCAPES.get(c, c) for c in " ".join(text.split()))


def _latex_line(cells: Sequence[str]) -> str:
    # {} first: after \\ LaTeX would read a bracket or a star as its option
    return "{}" + " & ".join(escape_latex(c) for c in cells) + r" \\"


def _undefined(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _rounded(value: Any, decimals: int) -> str:
    if _undefined(value):
        return "–"
    if isinstance(value, float):
        return fixed(value, decimals) if abs(value) >= 10**-decimals or value == 0 else f"{value:.1e}"
    return str(value)


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown, HTML and pandoc show it as it is, on one line."""
    plain = " ".join(text.split())
    for mark in "\\`*_[]<>|$@#~^":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def _without_formula(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
