"""Null model of contrast: the edges of the image.

Adebayo et al. 2018, arXiv 1810.03292, found several methods hard to tell from an edge detector.
"""

from __future__ import annotations

import numpy as np

from histoxai.explain.bases.null_model import NullModel


class Edges(NullModel):
    """Null model: Sobel's gradient magnitude of the grey image."""

    name = "edges"
    label = "Edge detector"
    citations = ("adebayo2018",)

    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Square root of the mean of both squared Sobel responses to the luminance, as in scikit-image's sobel."""
        from skimage.color import rgb2gray
        from skimage.filters import sobel

        return sobel(rgb2gray(image.astype(np.float64)))
