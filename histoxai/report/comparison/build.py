"""Build a page that sets several scores stores side by side and tests each against the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from histoxai import __version__
from histoxai.core.progress import Progress
from histoxai.report.comparison.answer import ComparisonQuestion, write_comparison_answer
from histoxai.report.comparison.content import (
    AnswerContent,
    ComparisonContent,
    DifferencesContent,
    MeansContent,
    MeanStats,
    MethodDifference,
    RunPair,
    RunsContent,
)
from histoxai.report.comparison.means import MeansOfRun, means_by_class, means_by_method, primary_means
from histoxai.report.comparison.pairs import compare_pair, correct_by_holm
from histoxai.report.comparison.runs import describe_run, differing_settings, notes_on
from histoxai.report.content import partial_label
from histoxai.report.figures.pool import FigurePool, PageFigure
from histoxai.report.figures.style import abbreviate
from histoxai.report.figures.tests import Bar, RunMean, forest, means_of_runs
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import Section, columns, first_mask, float_columns
from histoxai.report.wording import hyphenated, measure_in_sentence
from histoxai.score import scores_store
from histoxai.score.summary.scores import Scores, enough_repetitions, primary_of
from histoxai.settings import Comparison, Statistics


@dataclass(frozen=True)
class ComparisonInputs:
    """What the sections of the comparison page are built from.

    lineages: by the names of their runs; scores, means: in the same order; pairs: of every other run with the first.
    """

    lineages: Mapping[str, Lineage]
    scores: Sequence[Scores]
    statistics: Statistics
    means: Sequence[MeansOfRun]
    pairs: Sequence[RunPair]
    figures: FigurePool

    @property
    def runs(self) -> list[str]:
        """Names of the runs."""
        return list(self.lineages)

    @property
    def masks(self) -> list[str]:
        """Masks that any run has."""
        return list(dict.fromkeys(m for s in self.scores for m in s.masks))

    @property
    def methods(self) -> list[str]:
        """Methods that any run has."""
        return list(dict.fromkeys(m for s in self.scores for m in s.methods))

    @property
    def primary(self) -> str:
        """The measure that is compared."""
        assert self.statistics.primary is not None
        return self.statistics.primary


def build_comparison(
    lineages: Mapping[str, Lineage], settings: Comparison, figures: FigurePool, progress: Progress
) -> tuple[ComparisonContent, dict[str, np.ndarray]]:
    """Build the values of the page and the arrays of its data.zarr; all figures are drawn when this returns.

    lineages: by the names of their runs, of which the first is compared with. Raises UsageError for a measure that some
    run lacks.
    """
    inputs = _test_runs(lineages, settings, figures, progress)
    content: dict[str, object] = {"title": settings.title, "version": __version__}
    arrays: dict[str, np.ndarray] = {}
    for build in (_runs, _differences, _means, _answer):
        section = build(inputs)
        content |= section.content
        arrays |= section.arrays
    figures.finish(progress)
    return cast(ComparisonContent, content), arrays


def _test_runs(
    lineages: Mapping[str, Lineage], settings: Comparison, figures: FigurePool, progress: Progress
) -> ComparisonInputs:
    progress.start("statistics", None)
    scores = [scores_store.read(run.scores.path, "corrected", Statistics.empty, run.rows) for run in lineages.values()]
    first, *others = scores
    common = [m for m in first.metrics if all(m in s.metrics for s in scores)]
    statistics = Statistics(primary=primary_of(settings.primary, common, "corrected"))
    statistics = enough_repetitions(statistics, sum(len(s.methods) * len(s.masks) for s in others))
    means = [primary_means(s, statistics, progress) for s in scores]
    names = list(lineages)[1:]
    pairs = [compare_pair(first, other, name, statistics) for name, other in zip(names, others, strict=True)]
    # Null models are shown, not tested: they can only differ by what they are measured against.
    correct_by_holm([row for pair in pairs for row in pair["rows"] if not row["null"]])
    correct_by_holm([pair["accuracy"] for pair in pairs if pair["accuracy"] is not None])
    return ComparisonInputs(lineages, scores, statistics, means, pairs, figures)


def _runs(inputs: ComparisonInputs) -> Section:
    lineages = inputs.lineages
    content: RunsContent = {
        "runs": [describe_run(name, run) for name, run in lineages.items()],
        "settings": differing_settings(lineages),
        "notes": notes_on(lineages, inputs.pairs),
        "partial": [f"{name}: {partial_label(run.partial)}" for name, run in lineages.items() if run.partial],
        "lineage": [{"run": name, **row} for name, run in lineages.items() for row in run.ancestors()],
    }
    return Section(content)


def _means(inputs: ComparisonInputs) -> Section:
    means = {mask: means_by_method(inputs.means, mask, inputs.methods) for mask in inputs.masks}
    panels = [
        (f"{hyphenated(mask)} mask", {row["method"]: [_run_mean(s) for s in row["of"]] for row in rows})
        for mask, rows in means.items()
    ]
    label = measure_in_sentence(inputs.primary)
    content: MeansContent = {
        "means": means,
        "means_figure": inputs.figures.add("means", means_of_runs, panels, inputs.runs, label),
        "classes": means_by_class(inputs.means, first_mask(inputs.masks), inputs.methods),
    }
    cells = [
        {"run": run, "mask": mask, "method": row["method"], **stats}
        for mask, rows in means.items()
        for row in rows
        for run, stats in zip(inputs.runs, row["of"], strict=True)
        if stats is not None
    ]
    arrays = columns("mean", cells, ("run", "mask", "method"))
    return Section(content, arrays | float_columns("mean", cells, ("mean", "low", "high", "chance")))


def _run_mean(stats: MeanStats | None) -> RunMean | None:
    return None if stats is None else RunMean(stats["mean"], stats["low"], stats["high"], stats["chance"])


def _differences(inputs: ComparisonInputs) -> Section:
    rows = [row for pair in inputs.pairs for row in pair["rows"]]
    figure = _draw_differences(inputs, rows) if rows else None
    content: DifferencesContent = {"pairs": list(inputs.pairs), "differences_figure": figure}
    # with explicit types: there may be no rows
    arrays = {f"difference_{k}": np.array([r[k] for r in rows], str) for k in ("run", "mask", "method")}
    arrays |= {f"difference_{k}": np.array([r[k] for r in rows], np.int64) for k in ("n", "groups")}
    numbers = ("difference", "low", "high", "p_holm", "wilcoxon_holm", "effect")
    return Section(content, arrays | float_columns("difference", rows, numbers))


def _draw_differences(inputs: ComparisonInputs, rows: Sequence[MethodDifference]) -> PageFigure:
    panels = [
        (f"{hyphenated(mask)} mask", [_bar(row, len(inputs.pairs) > 1) for row in rows if row["mask"] == mask])
        for mask in dict.fromkeys(row["mask"] for row in rows)
    ]
    label = f"{measure_in_sentence(inputs.primary)}: less that of {abbreviate(inputs.runs[0])}"
    return inputs.figures.add("differences", forest, panels, label, 1 - inputs.statistics.level)


def _bar(row: MethodDifference, with_run: bool) -> Bar:
    name = f"{row['method']}, {row['run']}" if with_run else row["method"]
    return Bar(name, row["difference"], row["low"], row["high"], row["p_holm"], row["null"])


def _answer(inputs: ComparisonInputs) -> Section:
    mask, level, label = first_mask(inputs.masks), inputs.statistics.level, measure_in_sentence(inputs.primary)
    question = ComparisonQuestion(inputs.runs[0], label, mask, level)
    content: AnswerContent = {
        "answer": write_comparison_answer(question, inputs.pairs),
        "primary": inputs.primary,
        "primary_words": label,
        "mask": mask,
        "level": level,
        "level_words": f"{100 * level:g} %",
        "statistics": asdict(inputs.statistics),
    }
    return Section(content)
