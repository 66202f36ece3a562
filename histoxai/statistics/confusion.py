"""Count the agreement of binary planes: true and false positives and negatives."""

from __future__ import annotations

import numpy as np

COUNTS = ("tp", "fp", "fn", "tn")


def confusion_counts(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return TP, FP, FN, TN of two binary planes (..., P) over the last axis; int64 (..., 4)."""
    found, truth = np.asarray(found, bool), np.asarray(truth, bool)
    tp, ones, positives = _ones(found & truth), _ones(found), _ones(truth)
    counts = np.empty((4, *tp.shape), np.int64)  # each of the four in one piece, as those who sum it up read it
    counts[0], counts[1], counts[2], counts[3] = tp, ones - tp, positives - tp, found.shape[-1] - ones - positives + tp
    return np.moveaxis(counts, 0, -1)


def _ones(planes: np.ndarray) -> np.ndarray:
    # Of 256 lines of 256, np.count_nonzero along an axis takes 60 us; counts of eight pixels at a time, summed as a
    # product with ones, 8. float32 holds them exactly: a plane's are below 2**24.
    pixels = planes.shape[-1]
    if pixels > 255 * 8:
        return np.array([np.count_nonzero(p) for p in planes.reshape(-1, pixels)]).reshape(planes.shape[:-1])
    if pixels % 8:
        return np.count_nonzero(planes, axis=-1)
    words = np.bitwise_count(np.ascontiguousarray(planes).view(np.uint64))
    return (words.astype(np.float32) @ np.ones(pixels // 8, np.float32)).astype(np.int64)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below in float64, NaN where below is 0."""
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
