"""Build the section on tests on the model: faithfulness probes, and maps of randomised weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from histoxai.report.figures.faithfulness import probability_curves, randomisation_cascade
from histoxai.report.figures.pool import FigurePool, PageFigure
from histoxai.report.sections.base import (
    ReportInputs,
    ScoreSummary,
    Section,
    SummaryRow,
    columns,
    float_columns,
    null_models,
    with_null,
)
from histoxai.score.results import SanityRow

_CAPTIONS = {
    "deletion": "Deletion: the target's mean probability while pixels go, strongest first. The lower, the better.",
    "insertion": "Insertion: the target's mean probability while pixels come, strongest first. The higher, the better.",
}
_AXIS_ENDINGS = {"deletion": "that have gone", "insertion": "that have come"}
_LEAST_CHANGE = 0.05  # of a rank correlation, below that of another seed


class ProbeFigure(TypedDict):
    """Curves of one probe, with caption and alternative text."""

    name: str
    png: PageFigure
    alt: str
    caption: str


class Faithfulness(TypedDict):
    """Figures and mean rows of the probes, and which probes have missing shards."""

    figures: list[ProbeFigure]
    rows: list[dict[str, Any]]
    unfinished: list[str]


class Sanity(TypedDict):
    """The cascade of randomised weights, its rows, a sentence per method, and whether shards are missing."""

    figure: PageFigure
    patches: int
    rows: list[SanityRow]
    words: list[str]
    unfinished: list[str]


class FaithfulnessContent(TypedDict):
    """Values of the template `sections/faithfulness.html`; None for tests that the scores store lacks."""

    faithfulness: Faithfulness | None
    sanity: Sanity | None


def build(inputs: ReportInputs) -> Section:
    """Build the section and its numbers."""
    content: FaithfulnessContent = {
        "faithfulness": _probes(inputs.summary, inputs.figures),
        "sanity": _randomised_weights(inputs.summary, inputs.figures),
    }
    return Section(content, _arrays(inputs.summary))


def _probes(summary: ScoreSummary, figures: FigurePool) -> Faithfulness | None:
    tested = summary["faithfulness"]
    if tested is None:
        return None
    rows = with_null([r for r in tested["rows"] if r["class"] == "all"], summary)
    rows.sort(key=lambda r: list(tested["probes"]).index(r["probe"]))
    for k, row in enumerate(rows):
        row["first"] = k == 0 or rows[k - 1]["probe"] != row["probe"]
        row["better"] = "higher" if row["higher_is_better"] else "lower"
    drawn = dict.fromkeys(row["probe"] for row in tested["curves"])
    return {
        "figures": [_probe_figure(probe, summary, figures) for probe in drawn],
        "rows": rows,
        "unfinished": _unfinished(tested["probes"]),
    }


def _probe_figure(probe: str, summary: ScoreSummary, figures: FigurePool) -> ProbeFigure:
    tested = summary["faithfulness"]
    rows = with_null([r for r in tested["curves"] if r["probe"] == probe] if tested else [], summary)
    ending = _AXIS_ENDINGS.get(probe, "changed")
    return {
        "name": probe,
        "png": figures.add(f"faithfulness-{probe}", probability_curves, rows, ending),
        "alt": f"Curves of {probe}: mean probability of the target over the share of pixels, by method",
        "caption": _CAPTIONS.get(probe, probe),
    }


def _randomised_weights(summary: ScoreSummary, figures: FigurePool) -> Sanity | None:
    tested = summary["sanity"]
    if tested is None:
        return None
    rows, layers = tested["rows"], tested["settings"]["layers"]
    nulls = [name for name, null in null_models(summary).items() if null]
    return {
        "figure": figures.add("cascade", randomisation_cascade, rows, layers, nulls),
        "patches": max((r["n"] for r in rows), default=0),
        "rows": rows,
        "words": [_change_of(method, rows, layers) for method in summary["methods"] if method not in nulls],
        "unfinished": _unfinished({"sanity": tested}),
    }


def _change_of(method: str, rows: Sequence[SummaryRow], layers: Sequence[str]) -> str:
    # how far maps change when all weights are new, beside the change by another seed of the method
    correlation = {r["down_to"]: r["rank_correlation"] for r in rows if r["method"] == method}
    seed, last = correlation[None], correlation[layers[-1]]
    if seed is None or last is None:
        return f"{method}: no value."
    changes = "hardly changes" if last >= seed - _LEAST_CHANGE else "changes"
    return f"{method} {changes}: {last:z.3f} with all weights drawn anew, {seed:z.3f} with another seed alone."


def _unfinished(items: Mapping[str, SummaryRow]) -> list[str]:
    return [
        f"{name}: {row['shards']} of {row['of']} shards are done; run its command again."
        for name, row in items.items()
        if row["shards"] < row["of"]
    ]


def _arrays(summary: ScoreSummary) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if tested := summary["faithfulness"]:
        rows = [r for r in tested["rows"] if r["class"] == "all"]
        arrays |= columns("faithfulness", rows, ("method", "probe", "n"))
        arrays |= float_columns("faithfulness", rows, ("mean", "low", "high"))
    if sanity := summary["sanity"]:
        arrays |= columns("sanity", sanity["rows"], ("method",))
        arrays["sanity_down_to"] = np.array([r["down_to"] or "" for r in sanity["rows"]])
        arrays |= float_columns("sanity", sanity["rows"], ("rank_correlation", "low", "high", "ssim"))
    return arrays
