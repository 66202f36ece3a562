"""Null model of the stain: where nuclei are blue.

Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291; stain vectors as in scikit-image.
"""

from __future__ import annotations

import numpy as np

from histoxai.explain.bases.null_model import NullModel


class Hematoxylin(NullModel):
    """Null model: density of hematoxylin by colour deconvolution."""

    name = "hematoxylin"
    label = "Hematoxylin density"
    citations = ("ruifrok2001",)

    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """The first of three stains; negative densities become 0."""
        from skimage.color import rgb2hed

        return np.maximum(rgb2hed(image.astype(np.float64))[..., 0], 0)
