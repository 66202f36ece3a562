"""Numbers of the page: its scripts' table, its templates and the terminal show the same digits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from rich.console import Console

from histoxai.cli.tables.score import beside_chance, sanity, scores
from histoxai.report.page.payload import mean_table, threshold_curves
from histoxai.report.page.render import _environment
from histoxai.report.sections.faithfulness import _changes
from histoxai.report.sections.robustness import _mask_thresholds
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
    assert columns["difference"][:3] == [0.4009, 0.4008, 0.4007]  # thesis less corrected, told apart as the means are


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


def printed(table: Any) -> list[list[str]]:
    """Numbers of a table of the terminal, by line."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    lines = [line.split() for line in console.export_text().splitlines()]
    return [n for line in lines if (n := [w for w in line if w.lstrip("+-").startswith("0.")])]


def test_curves_have_the_digits_of_their_threshold() -> None:
    keys = ("iou", "precision", "recall")
    rows = [
        {"method": m, "mask": mask, **{k: [v if mask == "tumor" else 0.1, 0.25 + n, None] for k in keys}}
        for mask in ("tumor", "non_tumor")
        for n, (m, v) in enumerate(STUDY.items())
    ]
    curves = threshold_curves(rows)
    assert [c["iou"] for c in curves] == [
        *([0.0991, 0.25, None], [0.0992, 1.25, None], [0.0993, 2.25, None]),
        *([0.1, 0.25, None], [0.1, 1.25, None], [0.1, 2.25, None]),
    ]


def test_the_terminal_tells_differences_from_0() -> None:
    above = {"ig": 0.0004, "nt": 0.0005, "lime": -0.1}
    rows = [r | {"class": "all", "groups": 20, "withheld": None} for r in ROWS[:3]]
    for r in rows:
        mean = above[r["method"]]
        r["above_chance"] = {"mean": mean, "low": mean - 0.0002, "high": mean + 0.0002}
    null = [
        {"mask": "tumor", "method": m, "null": "random", "difference": -mean, "p_holm": None}
        for m, mean in above.items()
    ]
    facts = {"level": 0.95, "primary": "iou", "groups": 20}
    names = {m: {"null": False} for m in STUDY}
    table = beside_chance({"rows": rows, "statistics": facts, "methods": names, "best_null": null})
    assert printed(table) == [
        ["0.0991", "0.0891", "0.1091", "0.0500", "+0.0004", "0.0002", "0.0006", "-0.0004"],
        ["0.0992", "0.0892", "0.1092", "0.0500", "+0.0005", "0.0003", "0.0007", "-0.0005"],
        ["0.0993", "0.0893", "0.1093", "0.0500", "-0.1000", "-0.1002", "-0.0998", "+0.1000"],
    ]


def test_randomised_weights_are_told_apart() -> None:
    rows = [
        {"method": m, "down_to": layer, "rank_correlation": v if layer else 0.5, "ssim": v, "n": 9}
        for m, v in STUDY.items()
        for layer in (None, "fc")
    ]
    summary = {"sanity": {"rows": rows, "shards": 1, "of": 1}, "methods": {m: {"null": False} for m in STUDY}}
    assert printed(sanity(summary)) == [["0.500", f"{v:.4f}", f"{v:.4f}"] for v in STUDY.values()]
    assert _changes(rows, ["fc"], list(STUDY)) == [
        f"{m} changes: {v:.4f} with all weights drawn anew, 0.500 with another seed alone." for m, v in STUDY.items()
    ]
    assert _changes(rows, ["fc"], []) == []


def test_thresholds_of_masks_have_the_digits_of_their_column() -> None:
    rows = [
        {
            "mask": mask,
            "method": m,
            "metric": "iou",
            "mask_threshold": t,
            "mean": v if (mask, t) == ("tumor", 0.5) else 0.1,
        }
        for mask in ("tumor", "non_tumor")
        for m, v in STUDY.items()
        for t in (0.4, 0.5)
    ]
    table = _mask_thresholds(rows)
    assert table is not None
    assert [r["decimals"] for r in table["rows"]] == [[3, 4]] * 3 + [[3, 3]] * 3
