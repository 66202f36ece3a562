"""The `thesis` profile: the study's own computation, quirks included (docs/study.md lists them)."""

from __future__ import annotations

import numpy as np

from histoxai.metrics import counts as c
from histoxai.metrics.profiles import Mask, Profile, stretch

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

    def score(self, plane: np.ndarray, masks: list[Mask], method: str, counts: np.ndarray) -> np.ndarray:
        """float64 (masks, metrics)."""
        # NaN compares false: a NaN plane is an empty map
        found = plane > self.map_threshold
        lost = method in RESCALED and (not found.any() or found.all())
        soft = stretch(plane) >= self.map_threshold
        lines = np.stack([c.confusion_counts(np.zeros_like(found) if lost else found, m.binary) for m in masks])
        phi = np.full(len(masks), np.nan) if lost else c.phi(counts)
        accuracy = np.zeros(len(masks)) if lost else c.pixel_accuracy(counts)
        iou = [soft_iou(soft, m.stretched) for m in masks]
        return np.stack([iou, *line_means(lines), phi, phi, accuracy], axis=1)


def soft_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """(sum st + 1) / (sum s + sum t - sum st + 1) with s = sigmoid of the binary map, t the binary mask.

    From counts: s is 0.5 on zeros and 0.731 on ones. Of an empty map and a mask with share p of the pixels it
    is p / (1 + p), nearly.
    """
    return soft_iou_of(c.confusion_counts(found.ravel(), truth.ravel()))


def soft_iou_of(counts: np.ndarray) -> float:
    """The same from TP, FP, FN, TN (4,)."""
    tp, fp, fn, tn = counts.tolist()
    both = SIGMOID_ONE * tp + SIGMOID_ZERO * fn
    sigmoids = SIGMOID_ONE * (tp + fp) + SIGMOID_ZERO * (fn + tn)
    return (both + 1) / (sigmoids + tp + fn - both + 1)


def line_means(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 per image line, 0 where undefined, averaged; lines (..., H, 4) counts."""
    tp, fp, fn = (lines[..., k].astype(np.float64) for k in range(3))
    found, truth = tp + fp, tp + fn
    p, r, f = (
        (above / np.maximum(below, 1)).mean(axis=-1)
        for above, below in ((tp, found), (tp, truth), (2 * tp, found + truth))
    )
    return p, r, f
