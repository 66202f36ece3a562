"""Measures where maps or masks are cut elsewhere, all from one histogram of each patch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from histoxai.score.measures.base import DEGENERATE
from histoxai.score.measures.counts import FORMULAS, chance_of_counts
from histoxai.score.results import MapThresholdRow, MaskThresholdRow
from histoxai.score.summary.scores import Pieces, Scores, apply_convention
from histoxai.score.threshold_curves import THRESHOLDS, counts_above
from histoxai.statistics.numbers import or_none

MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_PIECE = 512  # patches


def map_thresholds(s: Scores, empty: str) -> list[MapThresholdRow]:
    """The six measures of maps that are cut at every threshold: means over patches, 101 of each."""
    means = {pair: {name: _Mean() for name in FORMULAS} for pair in _pairs(s)}
    for mine, block in _pieces(s.curves if means else None):
        for (i, j), found in means.items():
            for name, values in _measured(s, s.flags[mine, i, j], counts_above(block[:, i, j]), empty).items():
                found[name].add(values)
    return [
        {
            "method": list(s.methods)[i],
            "mask": s.masks[j],
            "threshold": THRESHOLDS.tolist(),
            **{name: [or_none(m) for m in mean.value()] for name, mean in found.items()},  # type: ignore[typeddict-item]
        }
        for (i, j), found in means.items()
    ]


def mask_thresholds(s: Scores, empty: str) -> list[MaskThresholdRow]:
    """The six measures where masks are cut at MASK_THRESHOLDS and maps where they always are."""
    places = [int(np.argmin(np.abs(THRESHOLDS - t))) for t in MASK_THRESHOLDS]
    means = {pair: {name: (_Mean(), _Mean()) for name in FORMULAS} for pair in _pairs(s)}
    for mine, block in _pieces(s.mask_curves if means else None):
        for (i, j), found in means.items():
            counts = counts_above(block[:, i, j])[:, places][..., [0, 2, 1, 3]]  # there the map is the truth
            expected = chance_of_counts(counts, exact=False)
            for name, values in _measured(s, s.flags[mine, i, j], counts, empty).items():
                found[name][0].add(values)
                found[name][1].add(np.where(np.isfinite(values), expected[name], np.nan))
    return [
        {
            "method": list(s.methods)[i],
            "mask": s.masks[j],
            "mask_threshold": threshold,
            "metric": name,
            "mean": or_none(mean.value()[k]),
            "n": int(mean.n[k]),
            "chance": or_none(by_chance.value()[k]),
        }
        for (i, j), found in means.items()
        for name, (mean, by_chance) in found.items()
        for k, threshold in enumerate(MASK_THRESHOLDS)
    ]


class _Mean:
    """A mean over patches (n, t) -> (t,) that come in pieces, of those that are defined; NaN where none is."""

    def __init__(self) -> None:
        self.sum: Any = 0.0
        self.n: Any = 0

    def add(self, values: np.ndarray) -> None:
        self.sum = self.sum + np.nansum(values, axis=0)
        self.n = self.n + np.isfinite(values).sum(axis=0)

    def value(self) -> np.ndarray:
        return np.where(self.n > 0, self.sum / np.maximum(self.n, 1), np.nan)


def _pairs(s: Scores) -> list[tuple[int, ...]]:
    # the study's computation has no such curves, and neither has a store of counts alone
    if s.profile != "corrected" or s.curves is None or not len(s.label):
        return []
    return list(np.ndindex(len(s.methods), len(s.masks)))


def _pieces(histograms: Pieces | None) -> Iterator[tuple[slice, np.ndarray]]:
    # histograms are the largest of all that a store has: never more than some of them are in memory
    for a in range(0, 0 if histograms is None else len(histograms), _PIECE):
        assert histograms is not None
        mine = slice(a, min(a + _PIECE, len(histograms)))
        yield mine, histograms[mine]


def _measured(s: Scores, flags: np.ndarray, counts: np.ndarray, empty: str) -> dict[str, np.ndarray]:
    # each of the six (n, thresholds) of one method and mask; NaN for a map that is not finite
    flags = flags[:, None]
    lost = (flags & DEGENERATE["not_finite_map"]) > 0
    values = {name: np.where(lost, np.nan, formula(counts)) for name, formula in FORMULAS.items()}
    return {n: apply_convention(v[..., None], flags, [s.measures[n]], empty)[..., 0] for n, v in values.items()}
