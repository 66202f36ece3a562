"""Build the section on faithfulness probes of the model, and on maps of randomised weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from histoxai.core.digits import FEWEST, decimals_for, fixed
from histoxai.report.content import SectionContent
from histoxai.report.figures.faithfulness import probability_curves, randomisation_cascade
from histoxai.report.figures.pool import FigurePool
from histoxai.report.sections.base import ReportInputs, Section, SummaryRow, columns, null_models, with_null
from histoxai.score.results import FaithfulnessSummary, SanitySummary, ScoreSummary

_CAPTIONS = {
    "deletion": "Deletion: the target's mean probability as pixels are removed, strongest first. Lower is better.",
    "insertion": "Insertion: the target's mean probability as pixels are inserted, strongest first. Higher is better.",
}
_CHANGES = {"deletion": "removed", "insertion": "inserted"}
_LEAST_CHANGE = 0.05  # of a rank correlation, below that of another seed


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section and its numbers; tests that the scores store lacks are None."""
    summary, figures = inputs.summary, inputs.figures
    tested, sanity = summary["faithfulness"], summary["sanity"]
    content: SectionContent = {
        "faithfulness": tested and _probes(tested, summary, figures),
        "sanity": sanity and _randomised_weights(sanity, summary, figures),
    }
    arrays: dict[str, np.ndarray] = {}
    if tested:
        rows = [r for r in tested["rows"] if r["class"] == "all"]
        arrays |= columns("faithfulness", rows, ("method", "probe", "n"))
        arrays |= columns("faithfulness", rows, ("mean", "low", "high"), float)
    if sanity:
        arrays |= columns("sanity", sanity["rows"], ("method",))
        arrays["sanity_down_to"] = np.array([r["down_to"] or "" for r in sanity["rows"]])
        arrays |= columns("sanity", sanity["rows"], ("rank_correlation", "low", "high", "ssim"), float)
    return Section(content, arrays)


def _probes(tested: FaithfulnessSummary, summary: ScoreSummary, figures: FigurePool) -> dict[str, Any]:
    probes = list(tested["probes"])
    rows = with_null([r for r in tested["rows"] if r["class"] == "all"], summary)
    rows.sort(key=lambda r: probes.index(r["probe"]))
    for k, row in enumerate(rows):
        row["first"] = k == 0 or rows[k - 1]["probe"] != row["probe"]
        row["better"] = "higher" if row["higher_is_better"] else "lower"
    curves = with_null(tested["curves"], summary)
    drawn = [
        _probe_figure(probe, [r for r in curves if r["probe"] == probe], figures)
        for probe in dict.fromkeys(r["probe"] for r in curves)
    ]
    return {"figures": drawn, "rows": rows, "unfinished": _unfinished(tested["probes"])}


def _probe_figure(probe: str, curves: Sequence[SummaryRow], figures: FigurePool) -> dict[str, Any]:
    change = _CHANGES.get(probe, "changed")
    return {
        "png": figures.add(f"faithfulness-{probe}", probability_curves, curves, change),
        "alt": f"Curves of {probe}: mean probability of the target over the share of pixels, by method",
        "caption": _CAPTIONS.get(probe, probe),
    }


def _randomised_weights(sanity: SanitySummary, summary: ScoreSummary, figures: FigurePool) -> dict[str, Any]:
    rows, layers, nulls = sanity["rows"], sanity["settings"]["layers"], null_models(summary)
    return {
        "figure": figures.add("cascade", randomisation_cascade, rows, layers, nulls),
        "patches": max((r["n"] for r in rows), default=0),
        "rows": rows,
        "words": _changes(rows, layers, [method for method in summary["methods"] if method not in nulls]),
        "unfinished": _unfinished({"sanity": sanity}),
    }


def _changes(rows: Sequence[SummaryRow], layers: Sequence[str], methods: Sequence[str]) -> list[str]:
    # compares the change of maps with all weights randomised to the change with another seed of the method
    correlation = {(r["method"], r["down_to"]): r["rank_correlation"] for r in rows}
    ends = {m: (correlation[m, None], correlation[m, layers[-1]]) for m in methods}
    at_seed, at_last = (
        (decimals_for(column) for column in zip(*ends.values(), strict=True)) if ends else (FEWEST, FEWEST)
    )
    lines = []
    for method, (seed, last) in ends.items():
        if seed is None or last is None:
            lines.append(f"{method}: no value.")
            continue
        changes = "hardly changes" if last >= seed - _LEAST_CHANGE else "changes"
        drawn, reseeded = fixed(last, at_last), fixed(seed, at_seed)
        lines.append(f"{method} {changes}: {drawn} with all weights drawn anew, {reseeded} with another seed alone.")
    return lines


def _unfinished(items: Mapping[str, SummaryRow]) -> list[str]:
    return [
        f"{name}: {row['shards']} of {row['of']} shards are done; run its command again."
        for name, row in items.items()
        if row["shards"] < row["of"]
    ]
