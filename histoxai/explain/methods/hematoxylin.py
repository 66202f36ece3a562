"""The null model of the stain: where nuclei are blue, whatever the network thinks of them."""

from __future__ import annotations

import numpy as np

from histoxai.explain.bases.null_model import NullModel


class Hematoxylin(NullModel):
    """Null model: density of hematoxylin by colour deconvolution.

    Source: Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291, stain vectors as in scikit-image.
    """

    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """The first of three stains, negative densities 0."""
        from skimage.color import rgb2hed

        return np.maximum(rgb2hed(image.astype(np.float64))[..., 0], 0)
