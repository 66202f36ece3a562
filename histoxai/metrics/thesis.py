"""The `thesis` profile: the study's own computation, quirks included (docs/study.md lists them)."""

from __future__ import annotations

import numpy as np

from histoxai.metrics import counts as c
from histoxai.metrics.profiles import METRICS, Mask, Profile

# Planes of these methods are min-max scaled again after thresholding, so a constant one becomes NaN.
RESCALED = ("lime", "gradcam")
SIGMOID_ZERO, SIGMOID_ONE = 0.5, 1 / (1 + np.exp(-1.0))


class ThesisProfile(Profile):
    """The study's measures as its code computes them.

    IoU: map and mask min-maxed, map >= 0.3, mask >= 0.5, then a sigmoid over the *binary* map and smoothing
    by 1. Precision, recall and F1: scikit-learn's macro average over image lines, empty lines 0. Spearman of
    the binary planes, which is phi. LIME's and GradCAM's binary planes are min-maxed again: a constant one
    reads as 0 in precision, recall and F1, scores 0 in pixel accuracy and has no Spearman.
    Source: Valatkaite 2024, code.
    """

    constant = float("nan")

    def score(self, plane: np.ndarray, masks: list[Mask], method: str) -> np.ndarray:
        """float64 (masks, metrics)."""
        # NaN compares false: a NaN plane is an empty map
        found = plane > self.map_threshold
        lost = method in RESCALED and (not found.any() or found.all())
        soft = _rescaled(plane) >= self.map_threshold
        rows = np.empty((len(masks), len(METRICS)))
        for row, mask in zip(rows, masks, strict=True):
            truth = _rescaled(mask.probability) >= self.mask_threshold
            lines = c.confusion_counts(np.zeros_like(found) if lost else found, mask.binary)
            four = lines.sum(axis=0)
            phi = np.nan if lost else float(c.phi(four))
            accuracy = 0.0 if lost else float(c.pixel_accuracy(four))
            row[:] = [soft_iou(soft, truth), *line_means(lines), phi, phi, accuracy]
        return rows


def soft_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """(sum st + 1) / (sum s + sum t - sum st + 1) with s = sigmoid of the binary map, t the binary mask.

    From counts: s is 0.5 on zeros and 0.731 on ones. Of an empty map and a mask with share p of the pixels it
    is p / (1 + p), nearly.
    """
    tp, fp, fn, tn = c.confusion_counts(found.ravel(), truth.ravel()).tolist()
    both = SIGMOID_ONE * tp + SIGMOID_ZERO * fn
    sigmoids = SIGMOID_ONE * (tp + fp) + SIGMOID_ZERO * (fn + tn)
    return (both + 1) / (sigmoids + tp + fn - both + 1)


def line_means(lines: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 per image line, 0 where undefined, averaged; lines (H, 4) counts."""
    p, r, f = (np.nan_to_num(measure(lines)).mean() for measure in (c.precision, c.recall, c.f1))
    return float(p), float(r), float(f)


def _rescaled(plane: np.ndarray) -> np.ndarray:
    # min-max; a constant plane becomes NaN and is then nowhere above a threshold
    plane = np.asarray(plane, np.float64)
    low, high = plane.min(), plane.max()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (plane - low) / (high - low)
