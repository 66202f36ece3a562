"""Set the means of every run side by side, by mask and method, and by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from histoxai.core.progress import Progress
from histoxai.report.comparison.content import ClassRow, MeanStats, MethodMeans
from histoxai.score.summary.means import means_of
from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics

_STATS = ("mean", "low", "high", "chance", "n")
# of one run: by mask, method and class
MeansOfRun = Mapping[tuple[str, str, str], MeanStats]


def primary_means(scores: Scores, statistics: Statistics, progress: Progress) -> MeansOfRun:
    """Return the means of the primary measure over all cases."""
    rows: list[dict[str, Any]] = [dict(row) for row in means_of(scores, statistics, progress.advance)]
    return {
        (r["mask"], r["method"], r["class"]): cast(MeanStats, {k: r[k] for k in _STATS})
        for r in rows
        if r["metric"] == statistics.primary and r["case"] == "all"
    }


def means_by_method(means: Sequence[MeansOfRun], mask: str, methods: Sequence[str]) -> list[MethodMeans]:
    """Return the means over all classes, a row per method."""
    return [{"method": m, "of": [of_run.get((mask, m, "all")) for of_run in means]} for m in methods]


def means_by_class(means: Sequence[MeansOfRun], mask: str, methods: Sequence[str]) -> list[ClassRow]:
    """Return the means of one mask, a row per class and method."""
    rows: list[ClassRow] = []
    for name in dict.fromkeys(c for of_run in means for _, _, c in of_run if c != "all"):
        for k, method in enumerate(methods):
            stats = [of_run.get((mask, method, name)) for of_run in means]
            values = [None if s is None else s["mean"] for s in stats]
            rows.append({"class": name, "method": method, "means": values, "first": k == 0})
    return rows
