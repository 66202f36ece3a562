"""Measures of four pixel counts: a map and a mask, both binary, at three thresholds of the map.

Oracles: scikit-learn on pooled pixels. 0/0 is NaN ("undefined"), which means leave out and count: an empty map has no
precision, an empty mask no recall, two constant planes no correlation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from histoxai.score.measures.base import Measure, Pair, RenderedMap
from histoxai.statistics.confusion import confusion_counts, ratio
from histoxai.statistics.hypergeometric import expected_iou


def iou(counts: np.ndarray) -> np.ndarray:
    """Return the Jaccard index TP / (TP + FP + FN)."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fp + fn)


def precision(counts: np.ndarray) -> np.ndarray:
    """Return TP / (TP + FP)."""
    tp, fp, _, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fp)


def recall(counts: np.ndarray) -> np.ndarray:
    """Return TP / (TP + FN)."""
    tp, _, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(tp, tp + fn)


def f1(counts: np.ndarray) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall."""
    tp, fp, fn, _ = np.moveaxis(counts, -1, 0)
    return ratio(2 * tp, 2 * tp + fp + fn)


def pixel_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return (TP + TN) / all."""
    tp, _, _, tn = np.moveaxis(counts, -1, 0)
    return ratio(tp + tn, counts.sum(axis=-1))


def phi(counts: np.ndarray) -> np.ndarray:
    """Return phi (Matthews), which is Pearson's and Spearman's correlation of the two binary planes."""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0).astype(np.float64)
    # the root of each factor alone: the product of four pixel counts would overflow int64
    below = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return ratio(tp * tn - fp * fn, below)


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "phi": phi,
    "pixel_accuracy": pixel_accuracy,
}

# ---- chance


def chance_of_counts(counts: np.ndarray, exact: bool = True) -> dict[str, np.ndarray]:
    """Return the chance of each of FORMULAS for counts (..., 4) TP, FP, FN, TN; NaN where the measure is undefined.

    Of N pixels of a patch, P are in the mask and k in the map. TP is then hypergeometric with mean k P / N. Measures
    that are linear in TP depend on its mean only. Smooth random maps then have the same chance as pixels drawn one by
    one, as long as every position is equally likely. IoU is not linear, so that its chance differs a little.

    exact: sum IoU over the whole distribution of TP. Otherwise expand it to second order at the mean of TP, which is
    fast and right to 1e-5.
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    k, p, n = tp + fp, tp + fn, tp + fp + fn + tn
    mean = k * ratio(p, n)
    return {
        "iou": np.vectorize(chance_of_iou, otypes=[np.float64])(k, p, n) if exact else _nearly_chance_of_iou(k, p, n),
        "precision": ratio(mean, k),
        "recall": ratio(mean, p),
        "f1": ratio(2 * mean, k + p),
        "phi": np.where((k > 0) & (k < n) & (p > 0) & (p < n), 0.0, np.nan),
        "pixel_accuracy": ratio(n - k - p + 2 * mean, n),
    }


def chance_of_iou(k: float, p: float, n: float) -> float:
    """Return E[TP / (k + p - TP)] of k random pixels, for whole k; NaN where map and mask are empty."""
    return expected_iou(0, k, p, n, k + p) if k + p else float("nan")


def _nearly_chance_of_iou(k: np.ndarray, p: np.ndarray, n: np.ndarray) -> np.ndarray:
    # f(TP) = (k + p) / (k + p - TP) - 1 at its mean, and half its second derivative times the variance
    mean, both = k * ratio(p, n), k + p
    variance = mean * (1 - ratio(p, n)) * (n - k) / np.maximum(n - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both > 0, mean / (both - mean) + both * variance / (both - mean) ** 3, np.nan)


# ---- counts at three thresholds of the map, once for all masks and measures


def otsu(relevance: np.ndarray) -> np.ndarray:
    """Return pixels (H, W) bool above Otsu's threshold of the scaled map (scikit-image's); none of a constant one."""
    from skimage.filters import threshold_otsu

    low, high = float(relevance.min()), float(relevance.max())
    if low == high:
        return np.zeros(relevance.shape, bool)
    scaled = (relevance.astype(np.float64) - low) / (high - low)  # the histogram's bins need a range above rounding
    return scaled > threshold_otsu(scaled)


def _counts(rendered: RenderedMap, cut: str) -> np.ndarray:
    # (masks, 4) int64; float64 for "area", where pixels tied at the cut count by their expected share
    if cut == "fixed":
        return rendered.counts[: len(rendered.masks)]
    if cut == "area":
        return np.stack([pair.hits.counts_among(pair.hits.positives) for pair in rendered.pairs])
    bright = otsu(rendered.required_relevance).ravel()
    return np.stack([confusion_counts(bright, mask.binary.ravel()) for mask in rendered.masks])


def _values(rendered: RenderedMap, cut: str) -> dict[str, np.ndarray]:
    counts = rendered.once(_counts, cut)
    values = {name: formula(counts) for name, formula in FORMULAS.items()}
    if cut == "area":  # the IoU of expected counts is not the expected IoU
        values["iou"] = np.array([pair.hits.iou_among(pair.hits.positives) for pair in rendered.pairs])
    return values


def _chances(rendered: RenderedMap, cut: str) -> dict[str, np.ndarray]:
    return chance_of_counts(rendered.once(_counts, cut))


@dataclass(frozen=True, kw_only=True)
class CountMeasure(Measure):
    """One of FORMULAS at one threshold of the map: "fixed", "area" (as many pixels as the mask has) or "otsu"."""

    formula: str
    cut: str

    def value(self, pair: Pair) -> float:
        return float(pair.map.once(_values, self.cut)[self.formula][pair.index])

    def chance(self, pair: Pair) -> float:
        return float(pair.map.once(_chances, self.cut)[self.formula][pair.index])


_LABELS = {"iou": "IoU", "f1": "F1", "pixel_accuracy": "pixel accuracy"}
_CUTS = {
    "fixed": ("the plane in 0..1, cut at `--map-threshold` (0.3)", "the study's, from pooled pixels"),
    "area": ("relevance, cut to as many pixels as the mask has", "the six at the area-matched threshold"),
    "otsu": ("relevance, cut at Otsu's threshold", "the six there"),
}


def _measures(cut: str) -> tuple[CountMeasure, ...]:
    subject, description = _CUTS[cut]
    fixed = cut == "fixed"
    return tuple(
        CountMeasure(
            name=name if fixed else f"{name}_{cut}",
            label=_LABELS.get(name, name) if fixed else f"{name}_{cut}".replace("_", " "),
            subject=subject,
            description=description,
            source="valatkaite2024",
            needs="counts" if fixed else "relevance",
            lowest=-1.0 if name == "phi" else 0.0,
            convention=name not in ("phi", "pixel_accuracy"),
            variant_of="" if fixed else name,
            headline=fixed,
            formula=name,
            cut=cut,
        )
        for name in FORMULAS
    )


IOU, PRECISION, RECALL, F1, PHI, PIXEL_ACCURACY = _measures("fixed")
IOU_AREA, PRECISION_AREA, RECALL_AREA, F1_AREA, PHI_AREA, PIXEL_ACCURACY_AREA = _measures("area")
IOU_OTSU, PRECISION_OTSU, RECALL_OTSU, F1_OTSU, PHI_OTSU, PIXEL_ACCURACY_OTSU = _measures("otsu")
