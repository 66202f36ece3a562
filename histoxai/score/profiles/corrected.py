"""The `corrected` profile: the six measures as the study's text defines them."""

from __future__ import annotations

import numpy as np

from histoxai.score.measures import counts as c
from histoxai.score.measures.localisation import centred_ranks, spearman
from histoxai.score.profiles.profiles import METRICS, Mask, Profile


class CorrectedProfile(Profile):
    """IoU, precision, recall, F1, phi and pixel accuracy from pooled pixel counts; Spearman on intensities.

    A map pixel is one above `map_threshold`, a mask pixel above `mask_threshold`. 0/0 is undefined (NaN).
    A map that is not finite has no measure at all. Source: Valatkaite 2024, text.
    """

    constant = 0.0

    def score(
        self, plane: np.ndarray, masks: list[Mask], method: str, counts: np.ndarray, stretched: np.ndarray
    ) -> np.ndarray:
        """float64 (masks, metrics)."""
        del method, stretched  # all methods alike
        if not np.isfinite(plane).all():
            return np.full((len(masks), len(METRICS)), np.nan)
        ranks = centred_ranks(plane) if any(mask.ranks is not None for mask in masks) else None
        rank = np.array([spearman(ranks, mask.ranks) for mask in masks])
        columns = [c.iou(counts), c.precision(counts), c.recall(counts), c.f1(counts), rank, c.phi(counts)]
        return np.stack([*columns, c.pixel_accuracy(counts)], axis=1)
