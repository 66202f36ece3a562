"""Define a section of the page, and the inputs that all sections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from histoxai.core.progress import Progress
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import Lineage
from histoxai.score import scores_store
from histoxai.score.results import ScoreSummary
from histoxai.score.summary.means import means_of
from histoxai.score.summary.scores import Scores
from histoxai.settings import Report, Statistics

# One row of the lists in the object that `score --json` prints.
SummaryRow = Mapping[str, Any]


Content = TypeVar("Content", bound=Mapping[str, object])


@dataclass(frozen=True)
class Section(Generic[Content]):
    """A section of a page: the values that its template reads, and its numbers for data.zarr."""

    content: Content
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreResults:
    """The scores of all patches, their summary, and the means of every profile, all in one statistics setting."""

    scores: Scores
    summary: ScoreSummary
    means: Mapping[str, Sequence[SummaryRow]]


@dataclass(frozen=True)
class ReportInputs:
    """Stores, settings and figures that the sections share; columns are read and statistics computed once.

    Columns have n entries, one per scored patch; an index into them is a position.
    """

    lineage: Lineage
    settings: Report
    figures: FigurePool
    progress: Progress

    @property
    def axes(self) -> dict[str, list[str]]:
        """Names along the axes of the scores store's arrays."""
        return self.lineage.scores.header["axes"]

    @cached_property
    def values(self) -> np.ndarray:
        """Scores (n, method, mask, profile, metric), NaN where undefined."""
        return self.lineage.column("values")

    @cached_property
    def label(self) -> np.ndarray:
        """Class of each patch (n,) int64, -1 without one."""
        return self.lineage.column("label").astype(np.int64)

    @cached_property
    def case(self) -> np.ndarray:
        """The study's case of each patch (n,) int64: 1 right and sure, 2 right, 3 wrong and sure, 4 wrong."""
        return self.lineage.column("case").astype(np.int64)

    @cached_property
    def patch_id(self) -> np.ndarray:
        """Id of each patch (n,)."""
        return self.lineage.column("patch_id")

    @cached_property
    def probability(self) -> np.ndarray:
        """Probability of each patch's predicted class (n,)."""
        return self.lineage.column("probability")

    @cached_property
    def present_classes(self) -> list[int]:
        """Codes of the classes that have patches."""
        return [c for c in range(len(self.lineage.patches.classes)) if (self.label == c).any()]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that have patches."""
        return [self.lineage.patches.classes[c] for c in self.present_classes]

    @cached_property
    def examples(self) -> list[list[int | None]]:
        """Position of the study's example patch of each case (row) and present class (column)."""
        prediction = self.lineage.column("prediction")
        return pick_examples(self.label, prediction, self.probability, self.case, self.present_classes)

    @cached_property
    def results(self) -> ScoreResults:
        """Scores and their statistics.

        Raises UsageError for a primary measure or class that the store lacks.
        """
        self.progress.start("statistics", None)
        path, rows = self.lineage.scores.path, self.lineage.rows
        statistics = Statistics(primary=self.settings.primary, cancer=self.settings.cancer)
        scores = scores_store.read(path, "corrected", statistics.empty, rows)
        summary = scores_store.summary_of(path, scores, statistics, self.progress, rows)
        means = {"corrected": summary["rows"], **self._means_of_other_profiles(statistics)}
        self.progress.stop()
        return ScoreResults(scores, summary, means)

    def _means_of_other_profiles(self, statistics: Statistics) -> dict[str, Sequence[SummaryRow]]:
        means: dict[str, Sequence[SummaryRow]] = {}
        for profile in scores_store.profiles_of(self.lineage.scores.header):
            if profile != "corrected":
                scores = scores_store.read(self.lineage.scores.path, profile, statistics.empty, self.lineage.rows)
                primary = statistics.primary if statistics.primary in scores.metrics else None
                means[profile] = means_of(scores, replace(statistics, primary=primary), self.progress.advance)
        return means

    @property
    def summary(self) -> ScoreSummary:
        """The summary of the corrected profile, as `score --json` prints it."""
        return self.results.summary

    @property
    def primary(self) -> str:
        """The measure that methods are compared by."""
        return self.summary["statistics"]["primary"]

    @property
    def primary_mask(self) -> str:
        """The mask that the page's question is about: tumor if there is one."""
        return first_mask(self.axes["mask"])


def first_mask(masks: Sequence[str]) -> str:
    """Return the mask that a page's question is about: tumor if there is one, else the first."""
    return "tumor" if "tumor" in masks else masks[0]


def null_models(summary: ScoreSummary) -> list[str]:
    """Return the names of the null models."""
    return [name for name, method in summary["methods"].items() if method["null"]]


def with_null(rows: Sequence[SummaryRow], summary: ScoreSummary) -> list[dict[str, Any]]:
    """Return rows with `null` added: whether their `method` is a null model."""
    return [{**row, "null": summary["methods"][row["method"]]["null"]} for row in rows]


def columns(
    prefix: str, rows: Sequence[SummaryRow], keys: Sequence[str], dtype: type | None = None
) -> dict[str, np.ndarray]:
    """Return columns of rows as arrays `<prefix>_<key>`; with dtype float, None becomes NaN."""
    return {f"{prefix}_{k}": np.array([r[k] for r in rows], dtype) for k in keys}


def pick_examples(
    label: np.ndarray, prediction: np.ndarray, probability: np.ndarray, case: np.ndarray, present: Sequence[int]
) -> list[list[int | None]]:
    """Pick one patch per case and class by the study's rule, as positions; None where a case has none.

    Cases 1 and 3 (right, wrong, sure) take the highest probability; 2 and 4 (right, wrong, unsure) the lowest.
    Ties go to the earlier patch.
    """
    assert ((prediction == label) == np.isin(case, (1, 2))).all()
    table: list[list[int | None]] = []
    for number in (1, 2, 3, 4):
        row: list[int | None] = []
        for code in present:
            candidates = np.flatnonzero((case == number) & (label == code))
            best = np.argmax if number in (1, 3) else np.argmin
            row.append(int(candidates[best(probability[candidates])]) if len(candidates) else None)
        table.append(row)
    return table
