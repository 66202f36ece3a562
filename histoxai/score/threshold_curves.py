"""Histograms of a map's intensities inside and outside of a mask: they give pixel counts at any threshold at once."""

from __future__ import annotations

import numpy as np

THRESHOLDS = np.arange(101) / 100


def levels(plane: np.ndarray) -> np.ndarray:
    """Return how many of the thresholds 0, 0.01, ..., 1 lie below each pixel of a plane in 0..1; (P,) int64.

    0 for NaN.
    """
    values = np.nan_to_num(plane.ravel().astype(np.float64), nan=-1.0)
    below = np.clip(np.ceil(values * 100), 0, 101).astype(np.int64)
    # ceil is right but for the last bit of the product: one step up or down where a threshold says so
    below -= THRESHOLDS[np.maximum(below - 1, 0)] * (below > 0) >= np.where(below > 0, values, np.inf)
    below += (below < 101) & (THRESHOLDS[np.minimum(below, 100)] < values)
    return below


def threshold_histogram(pixel_levels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Count pixels by how many thresholds they lie above; (2, 102) int64 from `levels` and a mask (H, W) bool.

    Row 0 counts pixels of the mask, row 1 the others. Entry j counts those above exactly j thresholds, so that the
    pixels with value > THRESHOLDS[i] are the sum of entries i+1 and up. A NaN pixel is above none.
    """
    both = np.bincount(pixel_levels + 102 * ~truth.ravel(), minlength=204)
    return both.reshape(2, 102)


def counts_above(curves: np.ndarray) -> np.ndarray:
    """Return TP, FP, FN, TN (..., 101, 4) at each of THRESHOLDS from histograms (..., 2, 102)."""
    above = curves[..., ::-1].cumsum(axis=-1, dtype=np.int64)[..., ::-1]
    tp, fp = above[..., 0, 1:], above[..., 1, 1:]
    return np.stack([tp, fp, above[..., 0, :1] - tp, above[..., 1, :1] - fp], axis=-1)
