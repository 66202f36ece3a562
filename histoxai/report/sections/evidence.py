"""Build the section on the primary measure: methods against chance, ranks of methods, the study's conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from histoxai.report.content import SectionContent
from histoxai.report.figures.pool import FigurePool
from histoxai.report.figures.tests import Bar, forest, rank_diagram
from histoxai.report.sections.base import ReportInputs, Section, SummaryRow, columns, with_null
from histoxai.report.wording import hyphenated, measure_in_sentence
from histoxai.score.results import ScoreSummary


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section and its numbers."""
    summary = inputs.summary
    content: SectionContent = {"evidence": write_evidence(summary, inputs.figures), "statistics": summary["statistics"]}
    return Section(content, evidence_arrays(summary))


def write_evidence(summary: ScoreSummary, figures: FigurePool) -> dict[str, Any]:
    """Draw differences to chance and ranks, and arrange the rows of the tables; the summary is of `score --json`."""
    statistics = summary["statistics"]
    label, level = measure_in_sentence(statistics["primary"]), statistics["level"]
    rows = with_null(_primary_rows(summary), summary)
    masks = dict.fromkeys(r["mask"] for r in rows)
    tables: list[dict[str, Any]] = [
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


def _rank_figures(summary: ScoreSummary, figures: FigurePool) -> list[dict[str, Any]]:
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
        **columns("primary", rows, ("mean", "low", "high", "chance"), float),
        **columns("above_chance", [r["above_chance"] for r in rows], ("mean", "low", "high", "p_holm"), float),
        "conclusion": np.array([c["name"] for c in conclusions]),
        **columns("conclusion", conclusions, ("answer",)),
        **columns("conclusion", conclusions, ("p_holm",), float),
    }
