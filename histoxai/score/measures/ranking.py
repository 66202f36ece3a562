"""Threshold-free localisation: how well the strongest pixels of a map are pixels of a mask.

A map is sorted once, whatever the number of masks and measures. Ties are exact: pixels of one value are one step of
a curve, and where a measure takes the k strongest, those that share the k-th value count by the share of them that
lies in the mask, the mean over all ways to break the tie. A constant map is one tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.score.measures.chance import expected_iou


def ascending(values: np.ndarray) -> np.ndarray:
    """Places of values (N,) float32 or float64 from the smallest, ties in any order.

    Bits of floats that are not negative sort like the floats. Value and place in one 64-bit integer make one sort of
    numbers do what takes numpy's argsort three times as long (measured at 65,536: 2.3 against 7.3 ms).
    """
    n = len(values)
    place = max(n - 1, 1).bit_length()
    values = values + values.dtype.type(0)  # -0 becomes 0
    if n == 0 or place > 32 or values.min() < 0:
        return np.argsort(values)
    if values.dtype == np.float32:
        keys = values.view(np.uint32).astype(np.uint64) << np.uint64(place)
    else:
        keys = values.view(np.uint64) >> np.uint64(place) << np.uint64(place)
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    order = (keys & np.uint64((1 << place) - 1)).astype(np.int64)
    if values.dtype != np.float32:  # their last bits had to go
        found = values[order]
        if (found[1:] < found[:-1]).any():
            return np.argsort(values)
    return order


@dataclass(frozen=True)
class Ranking:
    """A plane of N pixels from its strongest: order (N,) pixel numbers, ends (T,) pixels at or above each value."""

    order: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, plane: np.ndarray) -> Ranking:
        """Sort a plane (H, W) that is finite."""
        values = plane.ravel()
        order = ascending(values)[::-1]
        ordered = values[order]
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(values))
        return cls(order, ends)

    def against(self, truth: np.ndarray) -> Hits:
        """Count the pixels of a mask (H, W) bool along the order."""
        along = np.cumsum(truth.ravel()[self.order], dtype=np.int64)
        return Hits(self.ends, along[self.ends - 1])


@dataclass(frozen=True)
class Hits:
    """ends (T,), hits (T,): pixels at or above each distinct value of a map, and how many of them are the mask's."""

    ends: np.ndarray
    hits: np.ndarray

    @property
    def pixels(self) -> int:
        """N."""
        return int(self.ends[-1])

    @property
    def positives(self) -> int:
        """Pixels of the mask."""
        return int(self.hits[-1])

    def auroc(self) -> float:
        """Area under the ROC curve of pixels (scikit-learn's roc_auc_score); NaN for an empty or full mask.

        The probability that a pixel of the mask has a higher value than one outside, ties as half.
        """
        negatives = self.pixels - self.positives
        if not self.positives or not negatives:
            return float("nan")
        misses = self.ends - self.hits
        before = np.concatenate([[0], self.hits[:-1]])
        twice = np.dot(np.diff(misses, prepend=0), self.hits + before)  # integers, so exact
        return float(twice) / 2 / self.positives / negatives

    def average_precision(self) -> float:
        """Sum over distinct values of precision times the gain in recall (scikit-learn's); NaN for an empty mask."""
        if not self.positives:
            return float("nan")
        gain = np.diff(self.hits, prepend=0)
        return float(np.einsum("i,i", gain, self.hits / self.ends)) / self.positives

    def _cut(self, k: int) -> tuple[int, int, int, int]:
        # hits above the value of the k-th pixel; of the pixels that have it: how many are taken, all, and hits
        at = int(np.searchsorted(self.ends, k))
        start, before = (int(self.ends[at - 1]), int(self.hits[at - 1])) if at else (0, 0)
        return before, k - start, int(self.ends[at]) - start, int(self.hits[at]) - before

    def among(self, k: int) -> float:
        """Expected number of mask pixels among the k strongest, ties broken at random."""
        if k <= 0:
            return 0.0
        before, taken, tied, hits = self._cut(k)
        return before + taken * hits / tied

    def iou_among(self, k: int) -> float:
        """Expected IoU of the k strongest pixels, ties broken at random; NaN for an empty mask."""
        if k <= 0 or not self.positives:
            return float("nan")
        before, taken, tied, hits = self._cut(k)
        return expected_iou(before, taken, hits, tied, k + self.positives)

    def share_among(self, k: int) -> float:
        """Share of mask pixels among the k strongest; NaN for an empty mask."""
        return self.among(k) / k if self.positives and k else float("nan")

    def counts_among(self, k: int) -> np.ndarray:
        """TP, FP, FN, TN (4,) float64 of a map that is cut at its k strongest pixels; expected ones where they tie."""
        tp = self.among(k)
        return np.array([tp, k - tp, self.positives - tp, self.pixels - k - self.positives + tp])
