"""Types of the comparison page's values."""

from __future__ import annotations

from typing import Any, TypedDict

from histoxai.report.figures.pool import PageFigure
from histoxai.report.lineage import Ancestor
from histoxai.report.sections.answer import Answer


class ComparedRun(TypedDict):
    """A run at a glance; arch: of its classifier; methods: their names, joined."""

    name: str
    arch: str
    patches: int
    groups: int
    split: str
    methods: str
    path: str


class SettingRow(TypedDict):
    """A setting that differs between runs: of which step, its name, and its value in every run."""

    of: str
    setting: str
    values: list[str]


class MeanStats(TypedDict):
    """A mean of the primary measure with its interval, the mean of chance, and the number of patches."""

    mean: float | None
    low: float | None
    high: float | None
    chance: float | None
    n: int


class MethodMeans(TypedDict):
    """A method's means in every run, None where a run lacks it."""

    method: str
    of: list[MeanStats | None]


class DifferenceTest(TypedDict):
    """A mean paired difference with its interval and p-values, before and after Holm's correction.

    wilcoxon: p of Wilcoxon's test on the groups; effect: its rank-biserial correlation; withheld: why there is no p.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    wilcoxon: float | None
    wilcoxon_holm: float | None
    effect: float | None
    n: int
    groups: int
    withheld: str | None


class MethodDifference(DifferenceTest):
    """The test of one method on one mask: `run` less the first run; null: a null model in both."""

    run: str
    mask: str
    method: str
    null: bool


class AccuracyDifference(DifferenceTest):
    """The test of the classifiers: the share of patches that each run classifies as their label."""

    theirs: float
    first: float


class RunPair(TypedDict):
    """A run beside the first: common patches and groups, those of one run alone, deviating labels, and tests."""

    run: str
    patches: int
    groups: int
    only_first: int
    only_theirs: int
    other_class: int
    other_group: int
    rows: list[MethodDifference]
    accuracy: AccuracyDifference | None


ClassRow = TypedDict("ClassRow", {"class": str, "method": str, "means": list[float | None], "first": bool})


class RunAncestor(Ancestor):
    """An ancestor of one of the runs."""

    run: str


class RunsContent(TypedDict):
    """What the runs are and in what they differ; the first run is the one to compare with."""

    runs: list[ComparedRun]
    settings: list[SettingRow]
    notes: list[str]
    partial: list[str]
    lineage: list[RunAncestor]


class DifferencesContent(TypedDict):
    """The tests against the first run; differences_figure: None if nothing is tested."""

    pairs: list[RunPair]
    differences_figure: PageFigure | None


class MeansContent(TypedDict):
    """Means side by side: by mask and method, and for the primary mask by class and method."""

    means: dict[str, list[MethodMeans]]
    means_figure: PageFigure
    classes: list[ClassRow]


class AnswerContent(TypedDict):
    """The answer, and the measure, mask, level and settings behind it."""

    answer: Answer
    primary: str
    primary_words: str
    mask: str
    level: float
    level_words: str
    statistics: dict[str, Any]


class ComparisonContent(RunsContent, DifferencesContent, MeansContent, AnswerContent):
    """All values of the template `compare.html`."""

    title: str
    version: str
