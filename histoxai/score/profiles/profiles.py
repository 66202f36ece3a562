"""What a scoring profile is: how a map is rendered and binarised, and which measures come of it.

Two profiles are registered. `corrected` computes what the study's text defines, `thesis` what its code
computes. A new one is one file and one registry line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from histoxai.score.measures.localisation import centred_ranks

METRICS = ("iou", "precision", "recall", "f1", "spearman", "phi", "pixel_accuracy")


@dataclass(frozen=True)
class Mask:
    """One mask of one patch: probability (H, W), its binary plane and its ranks, made once for all methods.

    stretched: binary after min-max scaling, at or above the same threshold, as the study's IoU has it.
    """

    probability: np.ndarray
    binary: np.ndarray
    stretched: np.ndarray
    ranks: np.ndarray | None

    @classmethod
    def of(cls, probability: np.ndarray, threshold: float, ranked: bool = True) -> Mask:
        """Binarise at probability > threshold. ranked: whether intensities will be compared."""
        stretched = stretch(probability) >= threshold
        ranks = centred_ranks(probability) if ranked else None
        return cls(probability, probability > threshold, stretched, ranks)


def stretch(plane: np.ndarray) -> np.ndarray:
    """(v - min) / (max - min) in float64; a constant plane becomes NaN, which is nowhere above a threshold."""
    plane = np.asarray(plane, np.float64)
    low, high = plane.min(), plane.max()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (plane - low) / (high - low)


class Profile(ABC):
    """Base of all profiles.

    constant: what min-max scaling makes of a constant channel when maps are rendered for this profile.
    """

    constant: ClassVar[float] = 0.0

    def __init__(self, map_threshold: float, mask_threshold: float) -> None:
        self.map_threshold, self.mask_threshold = map_threshold, mask_threshold

    @abstractmethod
    def score(
        self, plane: np.ndarray, masks: list[Mask], method: str, counts: np.ndarray, stretched: np.ndarray
    ) -> np.ndarray:
        """All METRICS of one rendered map (H, W) against each mask; float64 (masks, metrics), NaN undefined.

        method: the explainer's registered name, since the study treats its four methods differently. counts (masks,
        4): TP, FP, FN, TN of the plane above `map_threshold`; stretched (masks, 4): of the plane after min-max scaling,
        at or above it, against the mask as the study's IoU has it.
        """
