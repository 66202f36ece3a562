"""Rank correlation of a map's intensities with a mask's probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.score.measures.base import NAN, Measure, Pair, RenderedMap
from histoxai.statistics.ranks import centred_ranks, rank_correlation


def _ranks(rendered: RenderedMap) -> np.ndarray | None:
    return centred_ranks(rendered.plane)


@dataclass(frozen=True, kw_only=True)
class RankCorrelation(Measure):
    """Spearman's correlation of the plane and the mask's probability; NaN where one is constant."""

    def value(self, pair: Pair) -> float:
        if pair.map.settings.measures != "all" or pair.mask.ranks is None:
            return NAN
        return rank_correlation(pair.map.once(_ranks), pair.mask.ranks)

    def chance(self, pair: Pair) -> float:
        return 0.0


SPEARMAN = RankCorrelation(
    name="spearman",
    label="Spearman",
    subject="the plane, uncut, and the mask's probability",
    description="rank correlation",
    source="valatkaite2024",
    needs="plane",
    lowest=-1.0,
    convention=False,
    headline=True,
)
