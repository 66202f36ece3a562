"""All measures of one map against one mask that go beyond the six of the study, and the chance of each.

They look at the relevance: evidence of one sign, neither rescaled nor cut, as `Method.relevance` gives it. The
measures of `METRICS` (profiles.py) look at the plane in 0..1 that the study binarises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.score.measures import chance
from histoxai.score.measures import counts as c
from histoxai.score.measures.localisation import mass_accuracy, pointing_game, within
from histoxai.score.measures.ranking import Hits, Ranking
from histoxai.score.profiles.profiles import METRICS, Mask

COUNTED = {
    "iou": c.iou,
    "precision": c.precision,
    "recall": c.recall,
    "f1": c.f1,
    "phi": c.phi,
    "pixel_accuracy": c.pixel_accuracy,
}
FREE = (
    "auroc",
    "average_precision",
    "mass_accuracy",
    "rank_accuracy",
    "top_k",
    "pointing_game",
    "energy_pointing",
)
MEASURES = (*FREE, *(f"{name}_area" for name in COUNTED), *(f"{name}_otsu" for name in COUNTED))
ALL = (*METRICS, *MEASURES)
# Why a measure may be undefined, or mean nothing: bits of `flags`.
DEGENERATE = {"empty_mask": 1, "full_mask": 2, "constant_map": 4, "not_finite_map": 8}


@dataclass(frozen=True)
class Target:
    """A mask of one patch as the measures need it, made once for all methods: `near` is within the tolerance."""

    truth: np.ndarray
    near: np.ndarray
    flags: int

    @classmethod
    def of(cls, mask: Mask, tolerance: float) -> Target:
        """From a binary mask; tolerance in pixels."""
        full, any_ = bool(mask.binary.all()), bool(mask.binary.any())
        flags = (0 if any_ else DEGENERATE["empty_mask"]) | (DEGENERATE["full_mask"] if full else 0)
        return cls(mask.binary, within(mask.binary, tolerance), flags)


def measure(
    relevance: np.ndarray, plane: np.ndarray, found: np.ndarray, targets: list[Target], top: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All measures of one map: values (masks, MEASURES), chance (masks, ALL), flags (masks,) uint8.

    relevance (H, W) float32, not negative; plane (H, W) in 0..1; found: TP, FP, FN, TN (masks, 4) of the plane at its
    fixed threshold; top: share of the pixels that `top_k` takes. NaN where undefined: nothing is defined of a map that
    is not finite.
    """
    values = np.full((len(targets), len(MEASURES)), np.nan)
    chances = np.full((len(targets), len(ALL)), np.nan)
    flags = np.array([t.flags for t in targets], np.uint8)
    if not (np.isfinite(relevance).all() and np.isfinite(plane).all()):
        return values, chances, flags | DEGENERATE["not_finite_map"]
    if relevance.min() == relevance.max():
        flags |= DEGENERATE["constant_map"]
    ranking, bright = Ranking.of(relevance), otsu(relevance).ravel()
    hits = [ranking.against(target.truth) for target in targets]
    area = np.stack([h.counts_among(h.positives) for h in hits])
    cut = np.stack([c.confusion_counts(bright, target.truth.ravel()) for target in targets])
    free = [_free(relevance, plane, h, target, top) for h, target in zip(hits, targets, strict=True)]
    at_area = {name: one(area) for name, one in COUNTED.items()}
    at_area["iou"] = np.array([h.iou_among(h.positives) for h in hits])  # of expected counts it would be another
    values = np.column_stack([free, *at_area.values(), *(one(cut) for one in COUNTED.values())])
    chances = _chances(hits, targets, [found, area, cut])
    chances[:, len(METRICS) :][~np.isfinite(values)] = np.nan
    return values, chances, flags


def counts_only(plane: np.ndarray, targets: list[Target], found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chance (masks, METRICS) where nothing is ranked, and flags (masks,) uint8, of a plane (H, W) in 0..1."""
    flags = np.array([t.flags for t in targets], np.uint8)
    if not np.isfinite(plane).all():
        return np.full((len(targets), len(METRICS)), np.nan), flags | DEGENERATE["not_finite_map"]
    if plane.min() == plane.max():
        flags |= DEGENERATE["constant_map"]
    return np.column_stack(_of_study(found)), flags


def _of_study(found: np.ndarray) -> list[np.ndarray]:
    fixed = chance.of_counts(found)
    return [np.zeros(len(found)) if name == "spearman" else fixed[name] for name in METRICS]


def _free(relevance: np.ndarray, plane: np.ndarray, hits: Hits, target: Target, top: float) -> list[float]:
    return [
        hits.auroc(),
        hits.average_precision(),
        mass_accuracy(relevance, target.truth),
        hits.share_among(hits.positives),
        hits.share_among(max(1, round(top * hits.pixels))),
        pointing_game(relevance, target.near),
        mass_accuracy(plane, target.truth),
    ]


def _chances(hits: list[Hits], targets: list[Target], cuts: list[np.ndarray]) -> np.ndarray:
    # (masks, ALL); cuts: counts (masks, 4) at the fixed, the area-matched and Otsu's threshold
    area, cut = (chance.of_counts(counts) for counts in cuts[1:])
    positives, pixels = np.array([h.positives for h in hits]), hits[0].pixels
    p, half = positives / pixels, np.full(len(hits), 0.5)
    near = np.array([target.near.mean() for target in targets])
    precision = np.array([chance.average_precision(h.positives, h.ends) for h in hits])
    free = [half, precision, p, p, p, near, p]
    return np.column_stack([*_of_study(cuts[0]), *free, *(area[n] for n in COUNTED), *(cut[n] for n in COUNTED)])


def otsu(relevance: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool above Otsu's threshold of the scaled map (scikit-image's); none of a constant one."""
    from skimage.filters import threshold_otsu

    low, high = float(relevance.min()), float(relevance.max())
    if low == high:
        return np.zeros(relevance.shape, bool)
    scaled = (relevance.astype(np.float64) - low) / (high - low)  # bins of a few last bits would be none
    return scaled > threshold_otsu(scaled)
