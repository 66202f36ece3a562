"""Agreement of intensities: Spearman's correlation, and histograms behind every threshold curve."""

from __future__ import annotations

import numpy as np

from histoxai.score.measures.ranking import ascending

THRESHOLDS = np.arange(101) / 100


def centred_ranks(plane: np.ndarray) -> np.ndarray | None:
    """Average ranks of all pixels, centred and scaled to unit length; None for a constant or non-finite plane.

    As scipy.stats.rankdata has them.
    """
    values = plane.ravel()
    if not np.isfinite(values).all():
        return None
    order = ascending(values)
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends - len(values)) / 2, ends - starts)
    length = np.sqrt(np.einsum("i,i", ranks, ranks))  # no BLAS: its threads would get in the way of ours
    return ranks / length if length > 0 else None


def spearman(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Spearman's rank correlation (scipy.stats.spearmanr) from two `centred_ranks`; NaN where one is None."""
    return float("nan") if first is None or second is None else float(np.clip(np.einsum("i,i", first, second), -1, 1))


def levels(plane: np.ndarray) -> np.ndarray:
    """How many of the thresholds 0, 0.01, ..., 1 lie below each pixel of a plane in 0..1; (P,) int64, 0 for NaN."""
    values = np.nan_to_num(plane.ravel().astype(np.float64), nan=-1.0)
    below = np.clip(np.ceil(values * 100), 0, 101).astype(np.int64)
    # ceil is right but for the last bit of the product: one step up or down where a threshold says so
    below -= THRESHOLDS[np.maximum(below - 1, 0)] * (below > 0) >= np.where(below > 0, values, np.inf)
    below += (below < 101) & (THRESHOLDS[np.minimum(below, 100)] < values)
    return below


def threshold_histogram(levels_: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many pixels lie above how many of the thresholds; (2, 102) int64 from `levels` and a mask (H, W) bool.

    Row 0 counts pixels of the mask, row 1 the others; entry j those above exactly j thresholds, so that the
    pixels with value > THRESHOLDS[i] are the sum of entries i+1 and up, for any threshold at once. A NaN
    pixel is above none.
    """
    both = np.bincount(levels_ + 102 * ~truth.ravel(), minlength=204)
    return both.reshape(2, 102)


def mass_accuracy(relevance: np.ndarray, truth: np.ndarray) -> float:
    """Share of the relevance that lies in the mask (Arras, Osman and Samek 2022, arXiv 2003.07258).

    relevance (H, W), not negative; of a plane in 0..1 it is the energy-based pointing game (Wang et al. 2020, arXiv
    1910.01279). NaN for an empty mask or a map of zeros.
    """
    whole = float(relevance.sum(dtype=np.float64))
    if not whole > 0 or not truth.any():
        return float("nan")
    return float(relevance[truth].sum(dtype=np.float64)) / whole


def pointing_game(relevance: np.ndarray, near: np.ndarray) -> float:
    """Whether the strongest pixel is in the mask, or near it (Zhang et al. 2016, arXiv 1608.00507).

    near (H, W) bool: `within` of the mask. Of several strongest pixels the share that is; NaN for an empty mask.
    """
    if not near.any():
        return float("nan")
    strongest = relevance == relevance.max()
    return float(np.count_nonzero(strongest & near)) / np.count_nonzero(strongest)


def within(truth: np.ndarray, pixels: float) -> np.ndarray:
    """Where a mask (H, W) bool is at most so many pixels away, from centre to centre."""
    if pixels <= 0 or not truth.any():
        return truth
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~truth) <= pixels
