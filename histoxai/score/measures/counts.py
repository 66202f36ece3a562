"""The four pixel counts of two binary planes, and the measures that follow from them.

Oracles: scikit-learn on pooled pixels. 0/0 is NaN here ("undefined"), which callers count and leave out of
means: an empty map has no precision, an empty mask no recall, two constant planes no correlation.
"""

from __future__ import annotations

import numpy as np

COUNTS = ("tp", "fp", "fn", "tn")


def confusion_counts(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """TP, FP, FN, TN of two binary planes (..., P) over the last axis; int64 (..., 4)."""
    found, truth = np.asarray(found, bool), np.asarray(truth, bool)
    tp, ones, positives = _ones(found & truth), _ones(found), _ones(truth)
    pixels = found.shape[-1]
    return np.stack([tp, ones - tp, positives - tp, pixels - ones - positives + tp], axis=-1).astype(np.int64)


def _ones(planes: np.ndarray) -> np.ndarray:
    # np.count_nonzero along an axis takes 60 us for 256 lines of 256; eight pixels at a time, as lanes of a word, 12
    pixels = planes.shape[-1]
    if pixels > 255 * 8:
        return np.array([np.count_nonzero(p) for p in planes.reshape(-1, pixels)]).reshape(planes.shape[:-1])
    if pixels % 8:
        return np.count_nonzero(planes, axis=-1)
    words = np.ascontiguousarray(planes).view(np.uint64).sum(axis=-1)
    return words[..., None].view(np.uint8).sum(axis=-1, dtype=np.int64)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below in float64, NaN where below is 0."""
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def iou(counts: np.ndarray) -> np.ndarray:
    """Jaccard index TP / (TP + FP + FN)."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fp + fn)


def precision(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FP)."""
    tp, fp, _, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fp)


def recall(counts: np.ndarray) -> np.ndarray:
    """TP / (TP + FN)."""
    tp, _, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fn)


def f1(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(2 * tp, 2 * tp + fp + fn)


def pixel_accuracy(counts: np.ndarray) -> np.ndarray:
    """(TP + TN) / all."""
    tp, _, _, tn = np.moveaxis(counts, -1, 0)
    return ratio(tp + tn, counts.sum(axis=-1))


def phi(counts: np.ndarray) -> np.ndarray:
    """Phi (Matthews) coefficient; equals Pearson's and Spearman's correlation of the two binary planes."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0).astype(np.float64)
    # the root of each factor alone: the product of four pixel counts would overflow int64
    below = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return ratio(tp * tn - fp * fn, below)
