"""The values that the page's template reads, by name: what the sections together have to supply."""

from __future__ import annotations

from typing import Any, TypedDict

from histoxai.report.figures.pool import PageFigure
from histoxai.score.results import StatisticsFacts


class RunFacts(TypedDict):
    """A run at a glance: explained patches and their groups, split, size (height, width) and explained class.

    libraries: methods whose maps a library made, as in "ig by captum 0.8.0", or empty.
    partial: "partial: 8 of 10 patches", or empty. split_by: None for stores that recorded no rule.
    """

    version: str
    patches: int
    partial: str
    groups: int
    split: str
    split_by: str | None
    size: tuple[int, int]
    target: str
    libraries: str


class Answer(TypedDict):
    """The top of a page: a question, the sentences that answer it, and claims that the tests do not support."""

    question: str
    answer: list[str]
    unsupported: list[str]


class SectionContent(TypedDict, total=False):
    """The values that sections of `report.html` supply. Rows are those of `score --json`, made ready to print.

    A figure stands under `png` beside its name and caption. None stands for what the run lacks.
    """

    answer: Answer
    evidence: dict[str, Any]
    statistics: StatisticsFacts
    table1: dict[str, Any]
    leakage: dict[str, Any]
    notes: list[str]
    classifier: dict[str, Any]
    segmenter: dict[str, Any]
    maps: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    colour_words: str
    slides: list[dict[str, Any]]
    other_slides: int
    table6: list[dict[str, Any]]
    profiles: list[str]
    why: list[tuple[str, str]]
    violins: list[dict[str, Any]]
    sure: float
    faithfulness: dict[str, Any] | None
    sanity: dict[str, Any] | None
    sizes: list[dict[str, Any]]
    thresholds: list[dict[str, Any]]
    map_threshold: float
    mask_thresholds: dict[str, Any] | None
    mask_threshold: float
    agreement: dict[str, Any] | None
    ink: dict[str, Any] | None


class PageContent(RunFacts, SectionContent):
    """All values of `report.html`."""

    title: str
    methods: list[str]
    explorer: dict[str, Any]
    lineage: list[dict[str, str]]
    commands: list[str]


class ComparisonContent(TypedDict, total=False):
    """All values of `compare.html`; runs in the order in which they were named."""

    title: str
    version: str
    runs: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    notes: list[str]
    partial: list[str]
    lineage: list[dict[str, str]]
    means: dict[str, dict[str, list[Any]]]
    means_figure: PageFigure
    classes: list[dict[str, Any]]
    pairs: list[Any]
    differences_figure: PageFigure | None
    answer: Answer
    primary: str
    primary_words: str
    mask: str
    level: float
    level_words: str
    statistics: dict[str, Any]
