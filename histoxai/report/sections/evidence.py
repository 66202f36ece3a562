"""Build the section on the primary measure: methods against chance, ranks of methods, the study's conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from histoxai.report.figures.pool import FigurePool, PageFigure
from histoxai.report.figures.tests import Bar, forest, rank_diagram
from histoxai.report.sections.base import (
    ReportInputs,
    ScoreSummary,
    Section,
    SummaryRow,
    columns,
    float_columns,
    with_null,
)
from histoxai.report.wording import hyphenated, measure_in_sentence
from histoxai.score.results import ConclusionRow, StatisticsFacts


class ChanceTable(TypedDict):
    """Mean rows of one mask with `null` added, as `rows` of `score --json` has them."""

    title: str
    rows: list[dict[str, Any]]


class RankFigure(TypedDict):
    """Ranks of the methods on one mask, and the p of Friedman's test."""

    mask: str
    png: PageFigure
    p: float | None


class Evidence(TypedDict):
    """What the tests say: level of the intervals, tables by mask, ranks, reasons for missing ranks, conclusions."""

    primary: str
    level: str
    groups: int
    forest: PageFigure
    tables: list[ChanceTable]
    ranks: list[RankFigure]
    no_ranks: list[dict[str, Any]]
    conclusions: list[ConclusionRow]


class EvidenceContent(TypedDict):
    """Values of the template `sections/evidence.html`, and the statistics settings."""

    evidence: Evidence
    statistics: StatisticsFacts


def build(inputs: ReportInputs) -> Section:
    """Build the section and its numbers."""
    summary = inputs.summary
    content: EvidenceContent = {
        "evidence": write_evidence(summary, inputs.figures),
        "statistics": summary["statistics"],
    }
    return Section(content, evidence_arrays(summary))


def write_evidence(summary: ScoreSummary, figures: FigurePool) -> Evidence:
    """Draw differences to chance and ranks, and arrange the rows of the tables."""
    statistics = summary["statistics"]
    label, level = measure_in_sentence(statistics["primary"]), statistics["level"]
    rows = with_null(_primary_rows(summary), summary)
    masks = dict.fromkeys(r["mask"] for r in rows)
    tables: list[ChanceTable] = [
        {"title": f"{hyphenated(m)} mask", "rows": [r for r in rows if r["mask"] == m]} for m in masks
    ]
    panels = [(table["title"], [_above_chance(row) for row in table["rows"]]) for table in tables]
    return {
        "primary": label,
        "level": f"{100 * level:g} %",
        "groups": statistics["groups"],
        "forest": figures.add("forest", forest, panels, f"{label}, above chance", 1 - level),
        "tables": tables,
        "ranks": _rank_figures(summary, figures),
        "no_ranks": [{**r, "mask": hyphenated(r["mask"])} for r in summary["friedman"] if r["withheld"]],
        "conclusions": summary["conclusions"],
    }


def _primary_rows(summary: ScoreSummary) -> Sequence[SummaryRow]:
    stratum = (summary["statistics"]["primary"], "all", "all")
    return [r for r in summary["rows"] if (r["metric"], r["class"], r["case"]) == stratum]


def _above_chance(row: SummaryRow) -> Bar:
    above = row["above_chance"]
    return Bar(row["method"], above["mean"], above["low"], above["high"], above["p_holm"], row["null"])


def _rank_figures(summary: ScoreSummary, figures: FigurePool) -> list[RankFigure]:
    ranked = [r for r in summary["friedman"] if r["ranks"] and len(r["ranks"]) > 1]
    return [
        {"mask": hyphenated(r["mask"]), "png": figures.add(f"ranks-{r['mask']}", rank_diagram, r), "p": r["p"]}
        for r in ranked
    ]


def evidence_arrays(summary: ScoreSummary) -> dict[str, np.ndarray]:
    """Return the primary measure of each method and mask, and the conclusions, for data.zarr."""
    rows, conclusions = _primary_rows(summary), summary["conclusions"]
    return {
        **columns("primary", rows, ("method", "mask")),
        **float_columns("primary", rows, ("mean", "low", "high", "chance")),
        **float_columns("above_chance", [r["above_chance"] for r in rows], ("mean", "low", "high", "p_holm")),
        "conclusion": np.array([c["name"] for c in conclusions]),
        **columns("conclusion", conclusions, ("answer",)),
        **float_columns("conclusion", conclusions, ("p_holm",)),
    }
