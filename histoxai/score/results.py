"""Types of what `score --json` prints: the summary of a scores store and its rows.

docs/score.schema.json describes the same; a test compares both. None stands for what is undefined or withheld.
"""

from __future__ import annotations

from typing import Any, TypedDict

from histoxai.statistics.classification import ClassifierScores


class AboveChance(TypedDict):
    """Mean difference of value and chance, its interval, and p; p_holm only in rows of all classes and cases."""

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None


class Interval(TypedDict):
    """Mean over n patches with the ends of its interval; `withheld` says why there is no interval."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    groups: int
    withheld: str | None


# `class` is a keyword, which the body of a class cannot declare
_OfClass = TypedDict("_OfClass", {"class": str})
_OfClassOrNone = TypedDict("_OfClassOrNone", {"class": str | None})


class MeanRow(_OfClass, Interval):
    """Mean of one measure over the n patches of a class (or "all") and case (or "all"), beside chance.

    `lift` is mean / chance; `degenerate` counts patches by flag.
    """

    method: str
    mask: str
    case: str
    metric: str
    undefined: int
    partial: bool
    chance: float | None
    lift: float | None
    above_chance: AboveChance
    degenerate: dict[str, int]


class SizeRow(Interval):
    """Mean of one measure over the patches whose mask is small, medium or large; pixels: least and largest area."""

    method: str
    mask: str
    size: str
    pixels: list[int] | None
    metric: str
    chance: float | None


class MapThresholdRow(TypedDict):
    """Means of the six measures of counts where maps are cut at each of 101 thresholds."""

    method: str
    mask: str
    threshold: list[float]
    iou: list[float | None]
    precision: list[float | None]
    recall: list[float | None]
    f1: list[float | None]
    phi: list[float | None]
    pixel_accuracy: list[float | None]


class MaskThresholdRow(TypedDict):
    """Mean of one measure of counts where masks are cut at `mask_threshold`."""

    method: str
    mask: str
    mask_threshold: float
    metric: str
    mean: float | None
    n: int
    chance: float | None


class Comparison(TypedDict):
    """Difference of two methods on the patches that both have: interval, tests and effect size.

    p is of the bootstrap, wilcoxon that of Wilcoxon's test on the groups' means; both also after Holm's correction.
    """

    mask: str
    metric: str | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    wilcoxon: float | None
    effect: float | None
    n: int
    groups: int
    p_holm: float | None
    wilcoxon_holm: float | None


class MethodComparison(Comparison):
    """Method `a` less method `b`."""

    a: str
    b: str


class NullComparison(Comparison):
    """A method less the best null model."""

    method: str
    null: str


class FriedmanRow(TypedDict):
    """Mean ranks of all methods on one mask (1 is best); cliques: sets that the test cannot tell apart."""

    mask: str
    metric: str | None
    p: float | None
    ranks: dict[str, float]
    critical_difference: float | None
    groups: int | None
    cliques: list[list[str]]
    withheld: str | None


class ConclusionRow(TypedDict):
    """One of the study's claims, tested; parts: the numbers that it rests on.

    measure: what the test measures. study_measure: what the study measured.
    """

    name: str
    claim: str
    answer: str
    words: str
    measure: str
    study_measure: str
    p: float | None
    p_holm: float | None
    parts: dict[str, float]


class FaithfulnessRow(_OfClass, Interval):
    """Mean of one faithfulness measure over the patches of a class."""

    method: str
    probe: str
    higher_is_better: bool


class FaithfulnessCurve(TypedDict):
    """Mean probability of the target after each share of the pixels is removed or inserted."""

    method: str
    probe: str
    share: list[float]
    probability: list[float | None]


class ItemState(TypedDict):
    """Settings of a work item of the store, and how many of its shards are done."""

    settings: dict[str, Any]
    shards: int
    of: int


class FaithfulnessSummary(TypedDict):
    """Means of the faithfulness measures, as far as they are done."""

    probes: dict[str, ItemState]
    rows: list[FaithfulnessRow]
    curves: list[FaithfulnessCurve]


class SanityRow(TypedDict):
    """Similarity of maps to those of a network randomised down to a layer; None: only another seed of the method."""

    method: str
    down_to: str | None
    rank_correlation: float | None
    low: float | None
    high: float | None
    ssim: float | None
    n: int


class SanitySummary(ItemState):
    """The sanity check, as far as it is done."""

    rows: list[SanityRow]


class MethodFacts(TypedDict):
    """The registered method behind a name, and whether it is a null model."""

    method: str
    null: bool


class StatisticsFacts(TypedDict):
    """How means were summed up: the options of the command, the cancer classes, the number of groups."""

    repetitions: int
    level: float
    seed: int
    primary: str
    margin: float
    cancer: list[str]
    empty: str
    groups: int


class Summary(TypedDict):
    """What summaries say of a scores store in one profile."""

    profile: str
    patches: int
    partial: dict[str, Any] | None
    statistics: StatisticsFacts
    methods: dict[str, MethodFacts]
    rows: list[MeanRow]
    sizes: list[SizeRow]
    map_thresholds: list[MapThresholdRow]
    mask_thresholds: list[MaskThresholdRow]
    comparisons: list[MethodComparison]
    best_null: list[NullComparison]
    friedman: list[FriedmanRow]
    conclusions: list[ConclusionRow]
    classifier: ClassifierScores


class ScoreSummary(Summary):
    """The whole object that `score --json` prints."""

    schema: str
    faithfulness: FaithfulnessSummary | None
    sanity: SanitySummary | None


class PatchRow(_OfClassOrNone):
    """One measure of one patch, method and mask: a row of `score --jsonl`; n is 1 where it is defined."""

    profile: str
    patch_id: str
    group: str
    method: str
    mask: str
    case: str
    metric: str
    mean: float | None
    n: int
    undefined: int
    chance: float | None
    degenerate: dict[str, int]
    partial: bool
