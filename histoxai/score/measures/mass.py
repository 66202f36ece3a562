"""Measures of where a map's mass lies: the share of it inside the mask, and its strongest pixel."""

from __future__ import annotations

import numpy as np

from histoxai.score.measures.base import FormulaMeasure, Pair, PatchMask


def mass_accuracy(relevance: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of a relevance (H, W), not negative, that lies in the mask (H, W) bool.

    NaN for an empty mask or a map of zeros.
    """
    whole = float(relevance.sum(dtype=np.float64))
    if not whole > 0 or not truth.any():
        return float("nan")
    return float(relevance[truth].sum(dtype=np.float64)) / whole


def pointing_game(relevance: np.ndarray, near: np.ndarray) -> float:
    """Return 1 where the strongest pixel is in the mask, or near it, else 0.

    near (H, W) bool: `within` of the mask. Of several strongest pixels it is the share that is; NaN for an empty mask.
    """
    if not near.any():
        return float("nan")
    strongest = relevance == relevance.max()
    return float(np.count_nonzero(strongest & near)) / np.count_nonzero(strongest)


def within(truth: np.ndarray, pixels: float) -> np.ndarray:
    """Return where a mask (H, W) bool is at most so many pixels away, from centre to centre."""
    if pixels <= 0 or not truth.any():
        return truth
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~truth) <= pixels


def _within_tolerance(mask: PatchMask, tolerance: float) -> np.ndarray:
    return within(mask.binary, tolerance)


def _near(pair: Pair) -> np.ndarray:
    # the mask and its surroundings are computed once for all maps of a patch
    return pair.mask.once(_within_tolerance, pair.map.settings.tolerance)


MASS_ACCURACY = FormulaMeasure(
    name="mass_accuracy",
    label="mass accuracy",
    subject="relevance",
    description="share of it inside the mask (Arras et al. 2022)",
    source="Arras, Osman and Samek 2022, arXiv 2003.07258",
    formula=lambda pair: mass_accuracy(pair.map.required_relevance, pair.mask.binary),
    expected=lambda pair: pair.prevalence,
)
POINTING_GAME = FormulaMeasure(
    name="pointing_game",
    label="pointing game",
    subject="relevance",
    description="whether the strongest pixel is in the mask, or within `--tolerance` px (Zhang et al. 2016)",
    source="Zhang et al. 2016, arXiv 1608.00507",
    formula=lambda pair: pointing_game(pair.map.required_relevance, _near(pair)),
    expected=lambda pair: float(_near(pair).mean()),
)
ENERGY_POINTING = FormulaMeasure(
    name="energy_pointing",
    label="energy pointing",
    subject="the plane",
    description="share of it inside the mask (Wang et al. 2020)",
    source="wang2020",
    formula=lambda pair: mass_accuracy(pair.map.plane, pair.mask.binary),
    expected=lambda pair: pair.prevalence,
)
