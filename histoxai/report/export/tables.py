"""Tables of the report in the three forms that papers take: CSV, LaTeX (booktabs) and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_LATEX = {
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
    """name: of its files; caption; rows of texts, numbers and None."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def csv(self) -> bytes:
        """All digits; empty where there is no value. A text that a spreadsheet would run as a formula is quoted."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_inert(c) for c in self.columns])
        for row in self.rows:
            writer.writerow(["" if _missing(v) else _inert(v) if isinstance(v, str) else v for v in row])
        return out.getvalue().encode()

    def markdown(self) -> bytes:
        """A pipe table under its caption, three decimals."""
        lines = [self.columns, ["---" if text else "---:" for text in self._texts()]]
        lines += [[_shown(v) for v in row] for row in self.rows]
        body = ["| " + " | ".join(markdown(c) for c in line) + " |" for line in lines]
        return ("\n".join([markdown(self.caption), "", *body]) + "\n").encode()

    def latex(self) -> bytes:
        """A `table` with booktabs rules, three decimals; names are escaped."""
        shape = "".join("l" if text else "r" for text in self._texts())
        lines = [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(self.caption)}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{shape}}}",
            r"\toprule",
            _line(self.columns),
            r"\midrule",
            *(_line([_shown(v) for v in row]) for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return ("\n".join(lines) + "\n").encode()

    def _texts(self) -> list[bool]:
        # which columns hold words
        return [any(isinstance(row[k], str) for row in self.rows) for k in range(len(self.columns))]


def latex(text: str) -> str:
    """A text as LaTeX prints it, whatever is in it."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _line(cells: Sequence[str]) -> str:
    # {} first: after \\ a bracket or a star would be taken for its option
    return "{}" + " & ".join(latex(c) for c in cells) + r" \\"


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _shown(value: Any) -> str:
    if _missing(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    return str(value)


def markdown(text: str) -> str:
    """A text as Markdown shows it: on one line, no mark of Markdown, HTML or pandoc."""
    plain = " ".join(text.split())
    for mark in "\\`*_[]<>|$@#~^":
        plain = plain.replace(mark, f"\\{mark}")
    return plain


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
