"""The `thesis` profile: the study's own computation, quirks included (docs/study.md lists them)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from histoxai.score.measures import counts as c
from histoxai.score.measures.base import Measure, Pair, PatchMask, PatchMasks, RenderedMap
from histoxai.score.profiles.base import Profile, ProfileScores, StoredScores
from histoxai.statistics.confusion import confusion_counts
from histoxai.statistics.hypergeometric import expected_iou

# Planes of these methods are min-max scaled again after thresholding, so a constant one becomes NaN.
RESCALED = ("lime", "gradcam")
SIGMOID_ZERO, SIGMOID_ONE = 0.5, 1 / (1 + np.exp(-1.0))


def stretch(plane: np.ndarray) -> np.ndarray:
    """Return (v - min) / (max - min) in float64; a constant plane becomes NaN, which is nowhere above a threshold."""
    plane = np.asarray(plane, np.float64)
    low, high = plane.min(), plane.max()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (plane - low) / (high - low)


def _stretched(mask: PatchMask) -> np.ndarray:
    return stretch(mask.probability) >= mask.threshold


def _stretched_truth(masks: PatchMasks) -> np.ndarray:
    return np.stack([mask.once(_stretched).ravel() for mask in masks])


def stretched_counts(rendered: RenderedMap) -> np.ndarray:
    """Count (masks, 4) int64 the map after min-max scaling against masks after min-max scaling, as the IoU has them."""
    soft = stretch(rendered.plane) >= rendered.settings.map_threshold
    return confusion_counts(soft.ravel(), rendered.masks.once(_stretched_truth))


def lines_of(masks: PatchMasks) -> np.ndarray:
    """Count the pixels of each mask in each image line; (masks, H)."""
    return np.count_nonzero([mask.binary for mask in masks], axis=-1)


def values_of(rendered: RenderedMap) -> np.ndarray:
    """Return all measures of one map against each mask; float64 (masks, measures).

    `rendered.counts` are those of the corrected profile's plane.
    """
    found, masks = rendered.found, rendered.masks
    counts = rendered.counts[: len(masks)]
    lost = rendered.method in RESCALED and (not found.any() or bool(found.all()))
    lines = np.stack([confusion_counts(np.zeros_like(found) if lost else found, m.binary) for m in masks])
    phi = np.full(len(masks), np.nan) if lost else c.phi(counts)
    accuracy = np.zeros(len(masks)) if lost else c.pixel_accuracy(counts)
    iou = [soft_iou(one) for one in rendered.once(stretched_counts)]
    return np.stack([iou, *line_means(lines), phi, phi, accuracy], axis=1)


def _chances_of(rendered: RenderedMap) -> np.ndarray:
    counts = rendered.counts[None, None, : len(rendered.masks)]
    stretched = rendered.once(stretched_counts)[None, None]
    return chance(counts, stretched, lines_of(rendered.masks)[None], np.array([rendered.method in RESCALED]))[0, 0]


@dataclass(frozen=True, kw_only=True)
class ThesisMeasure(Measure):
    """One of the study's measures as its code computes it.

    column: its place among them. heading, difference: why its values differ from those of the corrected profile.
    """

    column: int
    heading: str
    difference: str

    def value(self, pair: Pair) -> float:
        return float(pair.map.once(values_of)[pair.index, self.column])

    def chance(self, pair: Pair) -> float:
        return float(pair.map.once(_chances_of)[pair.index, self.column])

    def score(self, pair: Pair) -> tuple[float, float]:
        """Return value and chance; a plane of NaN is an empty map, since NaN compares false."""
        return self.value(pair), self.chance(pair)


_IOU = (
    "IoU",
    "The study's code passes the already binary map through a sigmoid (0 becomes 0.5, 1 becomes 0.731) and adds 1 "
    "above and below. An almost empty map then scores p / (1 + p), where p is the mask's share of the patch, "
    "whatever the method: the number describes the mask. Corrected: TP / (TP + FP + FN).",
)
_LINES = (
    "Precision, recall, F1",
    "The code hands two-dimensional planes to scikit-learn, which averages over image lines and counts an empty "
    "line as 0. Corrected: one count over all pixels of the patch.",
)
_SPEARMAN = (
    "Spearman",
    "The code takes the two binary planes, where it equals phi. Corrected: the map's and the mask's intensities.",
)
_CONSTANT = (
    "Constant maps",
    "The code rescales LIME's and GradCAM's binary planes once more; a constant one becomes NaN, which scores 0 in "
    "pixel accuracy, precision, recall and F1. A constant colour channel empties an IG or NT map. Corrected: a "
    "constant channel counts as zero, and what has no value is called undefined.",
)
_MEASURES = tuple(
    ThesisMeasure(
        name=name,
        label=label,
        subject="the plane in 0..1, cut at `--map-threshold` (0.3)",
        description="the study's, as its code computes it",
        source="valatkaite2024",
        needs="counts",
        lowest=-1.0 if name in ("spearman", "phi") else 0.0,
        convention=name in ("iou", "precision", "recall", "f1"),
        headline=True,
        column=column,
        heading=heading,
        difference=difference,
    )
    for column, (name, label, (heading, difference)) in enumerate(
        (
            ("iou", "IoU", _IOU),
            ("precision", "precision", _LINES),
            ("recall", "recall", _LINES),
            ("f1", "F1", _LINES),
            ("spearman", "Spearman", _SPEARMAN),
            ("phi", "phi", _CONSTANT),
            ("pixel_accuracy", "pixel accuracy", _CONSTANT),
        )
    )
)


class ThesisProfile(Profile):
    """The study's measures as its code computes them.

    IoU: map and mask min-maxed, map >= 0.3, mask >= 0.5, then a sigmoid over the *binary* map and smoothing by 1.
    Precision, recall and F1: scikit-learn's macro average over image lines, empty lines 0. Spearman of the binary
    planes, which is phi. LIME's and GradCAM's binary planes are min-maxed again: a constant one reads as 0 in
    precision, recall and F1, scores 0 in pixel accuracy and has no Spearman. Source: Valatkaite 2024, code.
    """

    constant = float("nan")

    @classmethod
    def measures(cls) -> tuple[ThesisMeasure, ...]:
        return _MEASURES

    @classmethod
    def read(cls, name: str, stored: StoredScores) -> ProfileScores:
        axes, column = stored.header["axes"], stored.column
        rescaled = np.array([facts["method"] in RESCALED for facts in stored.header["methods"].values()])
        by_chance = chance(column("counts"), column("stretched"), column("lines"), rescaled)
        return ProfileScores(list(axes["metric"]), column("values")[:, :, :, axes["profile"].index(name)], by_chance)


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
    """What each measure is for as many pixels, drawn at random; float64 (n, M, K, measures), NaN where undefined.

    counts, stretched (n, M, K, 4): as `Profile.score` has them; lines (n, K, H): pixels of
    the mask in each image line; rescaled (M,): methods whose planes become NaN where they are constant.
    """
    n, methods, masks, _ = counts.shape
    k, size = counts[..., :2].sum(axis=-1), counts.sum(axis=-1)
    positives = counts[..., 0] + counts[..., 2]
    constant = (k == 0) | (k == size)
    lost = constant & rescaled[:, None]
    made = np.full((n, methods, masks, len(_MEASURES)), np.nan)
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
