"""Measures of where a map's mass lies: the share of it inside the mask, and its strongest pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.score.measures.base import Measure, Pair, PatchMask


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


def _near(mask: PatchMask, tolerance: float) -> np.ndarray:
    return within(mask.binary, tolerance)


@dataclass(frozen=True, kw_only=True)
class MassMeasure(Measure):
    """The share of the mass inside the mask; of_plane: of the rendered plane instead of the relevance."""

    of_plane: bool = False

    def value(self, pair: Pair) -> float:
        mass = pair.map.plane if self.of_plane else pair.map.relevance
        assert mass is not None
        return mass_accuracy(mass, pair.mask.binary)

    def chance(self, pair: Pair) -> float:
        return pair.hits.positives / pair.hits.pixels


@dataclass(frozen=True, kw_only=True)
class PointingMeasure(Measure):
    """Whether the strongest pixel lies within the tolerance of the mask."""

    def value(self, pair: Pair) -> float:
        assert pair.map.relevance is not None
        return pointing_game(pair.map.relevance, self._near(pair))

    def chance(self, pair: Pair) -> float:
        return float(self._near(pair).mean())

    def _near(self, pair: Pair) -> np.ndarray:
        return pair.mask.once(_near, pair.map.settings.tolerance)


MASS_ACCURACY = MassMeasure(
    name="mass_accuracy",
    label="mass accuracy",
    subject="relevance",
    description="share of it inside the mask (Arras et al. 2022)",
    source="Arras, Osman and Samek 2022, arXiv 2003.07258",
)
POINTING_GAME = PointingMeasure(
    name="pointing_game",
    label="pointing game",
    subject="relevance",
    description="whether the strongest pixel is in the mask, or within `--tolerance` px (Zhang et al. 2016)",
    source="Zhang et al. 2016, arXiv 1608.00507",
)
ENERGY_POINTING = MassMeasure(
    name="energy_pointing",
    label="energy pointing",
    subject="the plane",
    description="share of it inside the mask (Wang et al. 2020)",
    source="wang2020",
    of_plane=True,
)
