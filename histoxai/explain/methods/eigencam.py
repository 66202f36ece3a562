"""EigenCAM.

Muhammad and Yeasin 2020, arXiv 2008.00299: the first principal component of the activations. It does not depend on the
class, and its sign is that of the decomposition.

The library's decomposition is replaced: it computes thousands of left singular vectors and discards them, 0.7 s a patch
of the study's CNN; the same component takes 0.01 s without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.cam import SinglePassCAM
from histoxai.explain.bases.method import level

if TYPE_CHECKING:
    import torch


class EigenCAM(SinglePassCAM):
    """pytorch-grad-cam's EigenCAM of the activations of the last convolution."""

    name = "eigencam"
    label = "EigenCAM"
    citations = ("muhammad2020",)
    library_class = "EigenCAM"
    needs_gradient = False

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """Project centred activations (pixels, channels) on their first right singular vector."""
        activations = value.cpu().numpy()  # waits: results of a whole micro-batch
        return np.stack([_first_component(activation) for activation in activations])


def _first_component(activation: np.ndarray) -> np.ndarray:
    if not np.ptp(level(activation), axis=(1, 2)).any():  # centring would leave nothing but rounding
        return np.zeros((1, *activation.shape[1:]), np.float32)
    pixels = activation.reshape(len(activation), -1).T
    centred = pixels - pixels.mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[2][0]
    return (centred @ first).reshape(1, *activation.shape[1:]).astype(np.float32)
