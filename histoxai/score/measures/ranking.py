"""Measures without a threshold: how well the strongest pixels of a map are pixels of a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from histoxai.score.measures.base import Measure, Pair
from histoxai.statistics.hypergeometric import expected_average_precision

_ARRAS = "Arras, Osman and Samek 2022, arXiv 2003.07258"


@dataclass(frozen=True, kw_only=True)
class RankingMeasure(Measure):
    """A measure of the sorted map: two functions of a pair."""

    of: Callable[[Pair], float]
    by_chance: Callable[[Pair], float]

    def value(self, pair: Pair) -> float:
        return self.of(pair)

    def chance(self, pair: Pair) -> float:
        return self.by_chance(pair)


def prevalence(pair: Pair) -> float:
    """Return the share of the patch that is in the mask."""
    return pair.hits.positives / pair.hits.pixels


def _top_k(pair: Pair) -> float:
    return pair.hits.share_among(max(1, round(pair.map.settings.top_k * pair.hits.pixels)))


AUROC = RankingMeasure(
    name="auroc",
    label="AUROC",
    subject="relevance",
    description="probability that a pixel of the mask is above one outside, ties as half",
    source="The area under the ROC curve of pixels, as scikit-learn computes it.",
    convention=False,
    headline=True,
    of=lambda pair: pair.hits.auroc(),
    by_chance=lambda pair: 0.5,
)
AVERAGE_PRECISION = RankingMeasure(
    name="average_precision",
    label="average precision",
    subject="relevance",
    description="area under precision over recall, by steps (scikit-learn's)",
    source="The area under precision over recall, as scikit-learn computes it; its chance: Bestgen 2015.",
    convention=False,
    headline=True,
    of=lambda pair: pair.hits.average_precision(),
    by_chance=lambda pair: expected_average_precision(pair.hits.positives, pair.hits.ends),
)
RANK_ACCURACY = RankingMeasure(
    name="rank_accuracy",
    label="rank accuracy",
    subject="relevance",
    description="share of mask pixels among as many strongest pixels as the mask has (Arras et al. 2022)",
    source=_ARRAS,
    of=lambda pair: pair.hits.share_among(pair.hits.positives),
    by_chance=prevalence,
)
TOP_K = RankingMeasure(
    name="top_k",
    label="top k",
    subject="relevance",
    description="share of mask pixels among the strongest `--top-k` (2 %) of all",
    source="Precision among the k strongest pixels.",
    of=_top_k,
    by_chance=prevalence,
)
