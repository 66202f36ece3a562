"""The `thesis` profile: the study's own computation, quirks included (docs/study.md lists them)."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from histoxai.score.measures import counts as c
from histoxai.score.measures.chance import expected_iou
from histoxai.score.profiles.profiles import METRICS, Mask, Profile

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

    def score(
        self, plane: np.ndarray, masks: list[Mask], method: str, counts: np.ndarray, stretched: np.ndarray
    ) -> np.ndarray:
        """float64 (masks, metrics)."""
        # NaN compares false: a NaN plane is an empty map
        found = plane > self.map_threshold
        lost = method in RESCALED and (not found.any() or found.all())
        lines = np.stack([c.confusion_counts(np.zeros_like(found) if lost else found, m.binary) for m in masks])
        phi = np.full(len(masks), np.nan) if lost else c.phi(counts)
        accuracy = np.zeros(len(masks)) if lost else c.pixel_accuracy(counts)
        iou = [soft_iou(one) for one in stretched]
        return np.stack([iou, *line_means(lines), phi, phi, accuracy], axis=1)


def soft_iou(counts: np.ndarray) -> float:
    """(sum st + 1) / (sum s + sum t - sum st + 1) with s = sigmoid of the binary map, t the binary mask.

    From TP, FP, FN, TN (4,): s is 0.5 on zeros and 0.731 on ones. Of an empty map and a mask with share p of the
    pixels it is p / (1 + p), nearly.
    """
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


# ---- chance


def chance(counts: np.ndarray, stretched: np.ndarray, lines: np.ndarray, rescaled: np.ndarray) -> np.ndarray:
    """What each of METRICS is for as many pixels, drawn at random; float64 (n, M, K, METRICS), NaN where undefined.

    counts, stretched (n, M, K, 4): as `Profile.score` has them; lines (n, K, H): pixels of
    the mask in each image line; rescaled (M,): methods whose planes become NaN where they are constant.
    """
    n, methods, masks, _ = counts.shape
    k, size = counts[..., :2].sum(axis=-1), counts.sum(axis=-1)
    positives = counts[..., 0] + counts[..., 2]
    constant = (k == 0) | (k == size)
    lost = constant & rescaled[:, None]
    made = np.full((n, methods, masks, len(METRICS)), np.nan)
    for i, j, q in np.ndindex(n, methods, masks):
        drawn = 0 if lost[i, j, q] else int(k[i, j, q])
        made[i, j, q, 0] = _chance_of_soft_iou(stretched[i, j, q])
        made[i, j, q, 1:4] = _chance_of_line_means(lines[i, q], drawn, int(size[i, j, q]))
    undefined = constant | (positives == 0) | (positives == size)
    made[..., 4] = made[..., 5] = np.where(undefined, np.nan, 0.0)
    agreeing = (size - k - positives + 2 * k * (positives / size)) / size
    made[..., 6] = np.where(lost, 0.0, agreeing)
    return made


def _chance_of_soft_iou(counts: np.ndarray) -> float:
    tp, fp, fn, tn = counts.tolist()
    k, p, n = tp + fp, tp + fn, tp + fp + fn + tn
    gain = SIGMOID_ONE - SIGMOID_ZERO
    sigmoids = SIGMOID_ONE * k + SIGMOID_ZERO * (n - k)
    return expected_iou((SIGMOID_ZERO * p + 1) / gain, k, p, n, (sigmoids + p + 2) / gain)


def _chance_of_line_means(truth: np.ndarray, k: int, n: int) -> tuple[float, float, float]:
    # A line has m of the k pixels by a hypergeometric law, and m t / width of them in its t of the mask.
    width = n // len(truth)
    m = np.arange(max(0, k + width - n), min(k, width) + 1)
    law = np.exp(_log_choose(width, m) + _log_choose(n - width, k - m) - _log_choose(n, np.array(k)))
    t, often = np.unique(truth, return_counts=True)
    share = t / width
    f1 = (2 * m[:, None] * share / np.maximum(m[:, None] + t, 1) * law[:, None]).sum(axis=0)
    means = (share * law[m > 0].sum(), (t > 0) * (k / n), f1)
    p, r, f = (float((often * one).sum()) / len(truth) for one in means)
    return p, r, f


def _log_choose(n: int, k: np.ndarray) -> np.ndarray:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1.0) - gammaln(n - k + 1.0))
