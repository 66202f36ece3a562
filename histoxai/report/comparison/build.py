"""Build a page that sets several scores stores side by side and tests each against the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from histoxai import __version__
from histoxai.core.progress import Progress
from histoxai.report.comparison.answer import ComparisonQuestion, write_comparison_answer
from histoxai.report.comparison.pairs import MethodDifference, RunPair, compare_pair, correct_by_holm
from histoxai.report.comparison.rotated_copies import contrast_copies, unsupported_by_copies, write_on_copies
from histoxai.report.comparison.runs import describe_run, differing_settings, notes_on
from histoxai.report.content import ComparisonContent
from histoxai.report.figures.pool import FigurePool, PageFigure
from histoxai.report.figures.style import abbreviate
from histoxai.report.figures.tests import Bar, forest, means_of_runs
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import Section, columns, first_mask
from histoxai.report.wording import hyphenated, measure_in_sentence
from histoxai.score import scores_store
from histoxai.score.results import MeanRow
from histoxai.score.summary.means import means_of
from histoxai.score.summary.scores import Scores, enough_repetitions, primary_of
from histoxai.settings import Comparison, Statistics

# the primary measure of one run, over all cases: by mask, method and class
MeansOfRun = Mapping[tuple[str, str, str], MeanRow]


@dataclass(frozen=True)
class ComparisonInputs:
    """Inputs that all sections of the comparison page share.

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

    lineages: by the names of their runs; all others are compared with the first. Raises UsageError for a measure that
    some run lacks.
    """
    inputs = _test_runs(lineages, settings, figures, progress)
    content: ComparisonContent = {"title": settings.title, "version": __version__}
    arrays: dict[str, np.ndarray] = {}
    for build in (_runs, _differences, _means, _answer):
        section = build(inputs)
        content.update(section.content)
        arrays |= section.arrays
    figures.finish(progress)
    return content, arrays


def _test_runs(
    lineages: Mapping[str, Lineage], settings: Comparison, figures: FigurePool, progress: Progress
) -> ComparisonInputs:
    progress.start("statistics", None)
    scores = [scores_store.read(run.scores.path, "corrected", Statistics.empty, run.rows) for run in lineages.values()]
    first, *others = scores
    common = [m for m in first.metrics if all(m in s.metrics for s in scores)]
    statistics = Statistics(primary=primary_of(settings.primary, common, "corrected"))
    statistics = enough_repetitions(statistics, sum(len(s.methods) * len(s.masks) for s in others))
    means = [_primary_means(s, statistics, progress) for s in scores]
    names = list(lineages)[1:]
    pairs = [compare_pair(first, other, name, statistics) for name, other in zip(names, others, strict=True)]
    # Null models are shown, not tested: they can only differ by what they are measured against.
    correct_by_holm([row for pair in pairs for row in pair["rows"] if not row["null"]])
    correct_by_holm([pair["accuracy"] for pair in pairs if pair["accuracy"] is not None])
    return ComparisonInputs(lineages, scores, statistics, means, pairs, figures)


def _primary_means(scores: Scores, statistics: Statistics, progress: Progress) -> MeansOfRun:
    rows = means_of(scores, statistics, progress.advance)
    primary = [r for r in rows if (r["metric"], r["case"]) == (statistics.primary, "all")]
    return {(r["mask"], r["method"], r["class"]): r for r in primary}


def _runs(inputs: ComparisonInputs) -> Section[ComparisonContent]:
    lineages = inputs.lineages
    content: ComparisonContent = {
        "runs": [describe_run(name, run) for name, run in lineages.items()],
        "settings": differing_settings(lineages),
        "notes": notes_on(lineages, inputs.pairs),
        "partial": [f"{name}: {run.partial_note}" for name, run in lineages.items() if run.partial],
        "lineage": [{"run": name, **row} for name, run in lineages.items() for row in run.ancestors()],
    }
    return Section(content)


def _means(inputs: ComparisonInputs) -> Section[ComparisonContent]:
    by_mask = {
        mask: {method: [of_run.get((mask, method, "all")) for of_run in inputs.means] for method in inputs.methods}
        for mask in inputs.masks
    }
    panels = [(f"{hyphenated(mask)} mask", by_method) for mask, by_method in by_mask.items()]
    label = measure_in_sentence(inputs.primary)
    content: ComparisonContent = {
        "means": by_mask,
        "means_figure": inputs.figures.add("means", means_of_runs, panels, inputs.runs, label),
        "classes": list(_means_by_class(inputs, first_mask(inputs.masks))),
    }
    cells = [
        {**row, "run": run}
        for by_method in by_mask.values()
        for of_runs in by_method.values()
        for run, row in zip(inputs.runs, of_runs, strict=True)
        if row is not None
    ]
    arrays = columns("mean", cells, ("run", "mask", "method"))
    return Section(content, arrays | columns("mean", cells, ("mean", "low", "high", "chance"), float))


def _means_by_class(inputs: ComparisonInputs, mask: str) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys(c for of_run in inputs.means for _, _, c in of_run if c != "all"):
        for k, method in enumerate(inputs.methods):
            rows = [of_run.get((mask, method, name)) for of_run in inputs.means]
            means = [None if row is None else row["mean"] for row in rows]
            yield {"class": name, "method": method, "means": means, "first": k == 0}


def _differences(inputs: ComparisonInputs) -> Section[ComparisonContent]:
    rows = [row for pair in inputs.pairs for row in pair["rows"]]
    figure = _draw_differences(inputs, rows) if rows else None
    # with explicit types: there may be no rows
    arrays = columns("difference", rows, ("run", "mask", "method"), str)
    arrays |= columns("difference", rows, ("n", "groups"), np.int64)
    arrays |= columns("difference", rows, ("difference", "low", "high", "p_holm", "wilcoxon_holm", "effect"), float)
    return Section({"pairs": list(inputs.pairs), "differences_figure": figure}, arrays)


def _draw_differences(inputs: ComparisonInputs, rows: Sequence[MethodDifference]) -> PageFigure:
    panels = [
        (f"{hyphenated(mask)} mask", [_bar(row, len(inputs.pairs) > 1) for row in rows if row["mask"] == mask])
        for mask in dict.fromkeys(row["mask"] for row in rows)
    ]
    label = f"{measure_in_sentence(inputs.primary)}: difference to {abbreviate(inputs.runs[0])}"
    return inputs.figures.add("differences", forest, panels, label, 1 - inputs.statistics.level)


def _bar(row: MethodDifference, with_run: bool) -> Bar:
    name = f"{row['method']}, {row['run']}" if with_run else row["method"]
    return Bar(name, row["difference"], row["low"], row["high"], row["p_holm"], row["null"])


def _answer(inputs: ComparisonInputs) -> Section[ComparisonContent]:
    mask, level, label = first_mask(inputs.masks), inputs.statistics.level, measure_in_sentence(inputs.primary)
    question = ComparisonQuestion(inputs.runs[0], label, mask, level)
    answer = write_comparison_answer(question, inputs.pairs)
    for pair in inputs.pairs:
        if contrast := contrast_copies(inputs.lineages, pair):
            answer["answer"].append(write_on_copies(contrast, inputs.statistics))
            answer["unsupported"] += unsupported_by_copies(contrast, inputs.statistics)
    content: ComparisonContent = {
        "answer": answer,
        "primary": inputs.primary,
        "primary_words": label,
        "mask": mask,
        "level": level,
        "level_words": f"{100 * level:g} %",
        "statistics": asdict(inputs.statistics),
    }
    return Section(content)
