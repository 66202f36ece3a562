"""What each measure is for a map that knows nothing: as many pixels as the real one, drawn at random.

All from N pixels of a patch, P of the mask and k of the map; TP is then hypergeometric with mean k P / N. Measures that
are linear in TP have the same chance for smooth random maps as for pixels drawn one by one, as long as every place is
equally likely; IoU, which is not, differs by less than its curvature over the spread of TP.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.metrics.counts import ratio


def of_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Chance of the measures of `counts` (..., 4) TP, FP, FN, TN; each (...), NaN where the measure is undefined."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    k, p, n = tp + fp, tp + fn, tp + fp + fn + tn
    mean = k * p / n
    return {
        "iou": np.vectorize(iou, otypes=[np.float64])(k, p, n),
        "precision": ratio(mean, k),
        "recall": ratio(mean, p),
        "f1": ratio(2 * mean, k + p),
        "phi": np.where((k > 0) & (k < n) & (p > 0) & (p < n), 0.0, np.nan),
        "pixel_accuracy": (n - k - p + 2 * mean) / n,
    }


def iou(k: float, p: float, n: float) -> float:
    """E[TP / (k + p - TP)] of k random pixels; exact for whole k, between the neighbours' values for others."""
    low = np.floor(k)
    if k != low:  # expected counts of a map whose threshold cuts through a tie
        return (1 - (k - low)) * iou(low, p, n) + (k - low) * iou(low + 1, p, n)
    if k + p == 0:
        return float("nan")
    # Terms from the mode to both sides by the ratio of neighbours, as far as they count.
    least, most = max(0, k + p - n), min(k, p)
    mode = min(max(np.floor((k + 1) * (p + 1) / (n + 2)), least), most)
    spread = np.sqrt(k * p * (n - k) * (n - p) / n / n / max(n - 1, 1))
    reach = np.ceil(9 * spread + 12)
    t = np.arange(max(least, mode - reach), min(most, mode + reach) + 1)
    following = (p - t[:-1]) * (k - t[:-1]) / ((t[:-1] + 1) * (n - p - k + t[:-1] + 1))
    log = np.concatenate([[0.0], np.cumsum(np.log(following))])
    weight = np.exp(log - log.max())
    return float(weight @ (t / (k + p - t)) / weight.sum())


def average_precision(p: Any, n: Any) -> np.ndarray:
    """Average precision of a random order of n pixels, p of them the mask's, expected (Bestgen 2015).

    (p - 1) / (n - 1) (1 - H_n / n) + H_n / n with the harmonic number H_n.
    """
    from scipy.special import digamma

    p, n = np.asarray(p, np.float64), np.asarray(n, np.float64)
    first = (digamma(n + 1) + np.euler_gamma) / n
    return np.where(p > 0, (p - 1) / np.maximum(n - 1, 1) * (1 - first) + first, np.nan)
