"""What each measure is for a map that knows nothing: as many pixels as the real one, drawn at random.

All from N pixels of a patch, P of the mask and k of the map; TP is then hypergeometric with mean k P / N. Measures that
are linear in TP have the same chance for smooth random maps as for pixels drawn one by one, as long as every place is
equally likely; IoU, which is not, differs by less than its curvature over the spread of TP.
"""

from __future__ import annotations

import numpy as np

from histoxai.score.measures.counts import ratio


def of_counts(counts: np.ndarray, exact: bool = True) -> dict[str, np.ndarray]:
    """Chance of the measures of `counts` (..., 4) TP, FP, FN, TN; each (...), NaN where the measure is undefined.

    exact: IoU by its whole sum instead of its curvature at the mean, which is right to 1e-5 and takes no time.
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    k, p, n = tp + fp, tp + fn, tp + fp + fn + tn
    mean = k * ratio(p, n)
    return {
        "iou": np.vectorize(iou, otypes=[np.float64])(k, p, n) if exact else _iou_nearly(k, p, n),
        "precision": ratio(mean, k),
        "recall": ratio(mean, p),
        "f1": ratio(2 * mean, k + p),
        "phi": np.where((k > 0) & (k < n) & (p > 0) & (p < n), 0.0, np.nan),
        "pixel_accuracy": ratio(n - k - p + 2 * mean, n),
    }


def iou(k: float, p: float, n: float) -> float:
    """E[TP / (k + p - TP)] of k random pixels, for whole k."""
    return expected_iou(0, k, p, n, k + p) if k + p else float("nan")


def expected_iou(sure: float, k: float, p: float, n: float, both: float) -> float:
    """E[(sure + T) / (both - sure - T)], T being how many of p marked among n pixels are among k random ones."""
    # Terms from the mode to both sides by the ratio of neighbours, as far as they count.
    least, most = max(0, k + p - n), min(k, p)
    mode = min(max(np.floor((k + 1) * (p + 1) / (n + 2)), least), most)
    spread = np.sqrt(k * p * (n - k) * (n - p) / n / n / max(n - 1, 1))
    reach = np.ceil(9 * spread + 12)
    t = np.arange(max(least, mode - reach), min(most, mode + reach) + 1)
    following = (p - t[:-1]) * (k - t[:-1]) / ((t[:-1] + 1) * (n - p - k + t[:-1] + 1))
    log = np.concatenate([[0.0], np.cumsum(np.log(following))])
    weight = np.exp(log - log.max())
    return float(weight @ ((sure + t) / (both - sure - t)) / weight.sum())


def _iou_nearly(k: np.ndarray, p: np.ndarray, n: np.ndarray) -> np.ndarray:
    # f(TP) = (k + p) / (k + p - TP) - 1 at its mean, and half its second derivative times the variance
    mean, both = k * ratio(p, n), k + p
    variance = mean * (1 - ratio(p, n)) * (n - k) / np.maximum(n - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both > 0, mean / (both - mean) + both * variance / (both - mean) ** 3, np.nan)


def average_precision(p: int, ends: np.ndarray) -> float:
    """Expected average precision of a random mask of p pixels, for a map with `ends` pixels at or above each value.

    sum over values of E[H^2] (e - e') / e^2 / p, H of the mask among the e strongest, e' the e before. Without ties it
    is (p - 1) / (n - 1) (1 - H_n / n) + H_n / n with the harmonic number H_n (Bestgen 2015).
    """
    if not p:
        return float("nan")
    e, n = ends.astype(np.float64), float(ends[-1])
    mean = e * (p / n)
    squares = mean**2 + mean * (1 - p / n) * (n - e) / max(n - 1, 1)
    return float(np.sum(squares * np.diff(e, prepend=0.0) / e**2)) / p
