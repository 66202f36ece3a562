"""Agreement of intensities: Spearman's correlation, and histograms behind every threshold curve."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

THRESHOLDS = np.arange(101) / 100


def centred_ranks(plane: np.ndarray) -> np.ndarray | None:
    """Average ranks of all pixels, centred and scaled to unit length; None for a constant or non-finite plane."""
    values = plane.ravel()
    if not np.isfinite(values).all():
        return None
    ranks = rankdata(values)
    ranks -= (len(ranks) + 1) / 2
    length = np.sqrt(ranks @ ranks)
    return ranks / length if length > 0 else None


def spearman(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Spearman's rank correlation (scipy.stats.spearmanr) from two `centred_ranks`; NaN where one is None."""
    return float("nan") if first is None or second is None else float(np.clip(first @ second, -1, 1))


def threshold_histogram(plane: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many pixels lie above how many of the thresholds 0, 0.01, ..., 1; (2, 102) int64.

    Row 0 counts pixels of the mask, row 1 the others; entry j those above exactly j thresholds, so that the
    pixels with value > THRESHOLDS[i] are the sum of entries i+1 and up, for any threshold at once. A NaN
    pixel is above none.
    """
    values = np.nan_to_num(plane.ravel(), nan=-1.0)
    above = np.searchsorted(THRESHOLDS, values, side="left")
    truth = truth.ravel()
    return np.stack([np.bincount(above[m], minlength=102) for m in (truth, ~truth)])
