"""Numbers of the page: its scripts' table, its templates and the terminal show the same digits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from histoxai.cli.tables.score import scores
from histoxai.report.page.payload import mean_table
from histoxai.report.page.render import _environment
from histoxai.report.sections.scores import _table_rows

STUDY = {"ig": 0.0991, "nt": 0.0992, "lime": 0.0993}  # IoU of R1
OTHERS = {"ig": 0.25, "nt": -0.0001, "lime": None}  # another class, told apart by three decimals


def row(method: str, name: str, mean: float | None) -> dict[str, Any]:
    low, high = (None, None) if mean is None else (mean - 0.01, mean + 0.01)
    keys = {"method": method, "mask": "tumor", "class": name, "case": "all", "metric": "iou"}
    facts = {"chance": 0.05, "n": 9, "undefined": 0, "above_chance": {"p_holm": None}}
    return {**keys, "mean": mean, "low": low, "high": high, **facts}


ROWS = [row(m, name, v) for name, values in (("R1", STUDY), ("N", OTHERS)) for m, v in values.items()]


def test_the_scripts_table_has_the_digits_of_each_stratum() -> None:
    thesis = [row(m, "R1", 0.5) for m in STUDY]
    columns = mean_table({"corrected": ROWS, "thesis": thesis}, [])["columns"]
    assert columns["decimals"] == [4, 4, 4, 3, 3, 3, 3, 3, 3]
    assert columns["mean"] == [0.0991, 0.0992, 0.0993, 0.25, 0.0, None, 0.5, 0.5, 0.5]
    assert str(columns["mean"][4]) == "0.0"  # without a sign
    assert columns["low"][:4] == [0.0891, 0.0892, 0.0893, 0.24]
    assert columns["chance"] == [0.05] * 9
    assert columns["difference"][:3] == pytest.approx([0.401, 0.401, 0.401])  # 0.4009, 0.4008, 0.4007


def test_templates_write_as_many_decimals_as_tell_means_apart() -> None:
    text = "{% set digits = rows | map(attribute='mean') | decimals %}"
    text += "{% for r in rows %}{{ r.mean | number(digits) }} ({{ r | interval(digits) }}) {% endfor %}"
    made = _environment().from_string(text).render(rows=ROWS[:2])
    assert made == "0.0991 (0.0891 to 0.1091) 0.0992 (0.0892 to 0.1092) "
    made = _environment().from_string(text).render(rows=ROWS[3:])
    assert made == "0.250 (0.240 to 0.260) 0.000 (-0.010 to 0.010) – (–) "


def test_cells_of_table_6_have_the_digits_of_their_column() -> None:
    # profile, metric, method, class: R1 as in the study, N told apart by three decimals
    mean = np.array([[[[0.0991, 0.25], [0.0992, -0.0001], [0.0993, np.nan]]]])
    axes = {"metric": ["iou"], "method": list(STUDY)}
    cells = [r["cells"] for r in _table_rows(mean, np.zeros(mean.shape, int), axes)]
    assert [[c["decimals"] for c in of_method] for of_method in cells] == [[4, 3]] * 3
    assert [[c["best"] for c in of_method] for of_method in cells] == [[False, True], [False, False], [True, False]]


def test_the_terminal_tells_the_studys_means_apart() -> None:
    summary = {"rows": ROWS, "profile": "corrected", "methods": {m: {"null": False} for m in STUDY}}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(scores(summary, "tumor"))
    lines = [line.split() for line in console.export_text().splitlines()]
    numbers = [[w for w in line if w.lstrip("-").startswith("0.") or w == "-"] for line in lines]
    assert [n for n in numbers if n] == [["0.0991", "0.250"], ["0.0992", "0.000"], ["0.0993", "-"]]
