"""Rank correlation of a map's intensities with a mask's probability."""

from __future__ import annotations

from histoxai.score.measures.base import NAN, FormulaMeasure, Pair
from histoxai.statistics.ranks import rank_correlation


def _spearman(pair: Pair) -> float:
    if pair.map.settings.measures != "all" or pair.mask.ranks is None:
        return NAN
    return rank_correlation(pair.map.plane_ranks, pair.mask.ranks)


SPEARMAN = FormulaMeasure(
    name="spearman",
    label="Spearman",
    subject="the plane, uncut, and the mask's probability",
    description="rank correlation",
    source="valatkaite2024",
    needs="plane",
    lowest=-1.0,
    convention=False,
    headline=True,
    formula=_spearman,
    expected=lambda pair: 0.0,
)
