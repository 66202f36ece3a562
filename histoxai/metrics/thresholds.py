"""Measures where maps or masks are cut elsewhere, all from one histogram of each patch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from histoxai.metrics import chance
from histoxai.metrics.localisation import THRESHOLDS
from histoxai.metrics.measures import COUNTED, DEGENERATE
from histoxai.metrics.scores import Scores, agreed
from histoxai.metrics.statistics import or_none

MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


def map_thresholds(s: Scores, empty: str) -> list[dict[str, Any]]:
    """The six measures of maps that are cut at every threshold: means over patches, 101 of each."""
    rows = []
    for i, j in _pairs(s):
        values = _measured(s, i, j, counts_above(s.curves[:, i, j]), empty)
        means = {name: [or_none(m) for m in _mean(found)] for name, found in values.items()}
        rows.append({"method": list(s.methods)[i], "mask": s.masks[j], "threshold": THRESHOLDS.tolist(), **means})
    return rows


def mask_thresholds(s: Scores, empty: str) -> list[dict[str, Any]]:
    """The six measures where masks are cut at MASK_THRESHOLDS and maps where they always are."""
    places = [int(np.argmin(np.abs(THRESHOLDS - t))) for t in MASK_THRESHOLDS]
    rows = []
    for i, j in _pairs(s):
        counts = counts_above(s.mask_curves[:, i, j])[:, places][..., [0, 2, 1, 3]]  # there the map is the truth
        expected = chance.of_counts(counts, exact=False)
        for name, values in _measured(s, i, j, counts, empty).items():
            by_chance = _mean(np.where(np.isfinite(values), expected[name], np.nan))
            for k, threshold in enumerate(MASK_THRESHOLDS):
                rows.append(
                    {
                        "method": list(s.methods)[i],
                        "mask": s.masks[j],
                        "mask_threshold": threshold,
                        "metric": name,
                        "mean": or_none(_mean(values)[k]),
                        "n": int(np.isfinite(values[:, k]).sum()),
                        "chance": or_none(by_chance[k]),
                    }
                )
    return rows


def counts_above(curves: np.ndarray) -> np.ndarray:
    """TP, FP, FN, TN (..., 101, 4) at each of the thresholds 0, 0.01, ..., 1 from histograms (..., 2, 102)."""
    above = curves[..., ::-1].cumsum(axis=-1, dtype=np.int64)[..., ::-1]
    tp, fp = above[..., 0, 1:], above[..., 1, 1:]
    return np.stack([tp, fp, above[..., 0, :1] - tp, above[..., 1, :1] - fp], axis=-1)


def _pairs(s: Scores) -> Iterator[tuple[int, ...]]:
    # the study's computation has no such curves, and neither has a store of counts alone
    if s.profile == "corrected" and s.curves.any():
        yield from np.ndindex(len(s.methods), len(s.masks))


def _measured(s: Scores, i: int, j: int, counts: np.ndarray, empty: str) -> dict[str, np.ndarray]:
    # each of the six (n, thresholds) of one method and mask; nothing of a map that is not finite
    flags = s.flags[:, i, j, None]
    lost = (flags & DEGENERATE["not_finite_map"]) > 0
    found = {name: np.where(lost, np.nan, measure(counts)) for name, measure in COUNTED.items()}
    return {name: agreed(values[..., None], flags, [name], empty)[..., 0] for name, values in found.items()}


def _mean(values: np.ndarray) -> np.ndarray:
    # over patches (n, t) -> (t,), NaN where none is defined
    n = np.isfinite(values).sum(axis=0)
    return np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan)
