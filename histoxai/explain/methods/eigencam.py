"""EigenCAM.

Muhammad and Yeasin 2020, arXiv 2008.00299: the first principal component of the activations; it knows no class, and
its sign is that of the decomposition.

Replaced here: the library's decomposition with full matrices, 0.7 s a patch of the study's CNN where the same
components take 0.01 s without the thousands of left vectors that it throws away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.cam import SinglePassCAM

if TYPE_CHECKING:
    import torch


class EigenCAM(SinglePassCAM):
    """pytorch-grad-cam's EigenCAM of the activations of the last convolution.

    Source: arXiv 2008.00299.
    """

    name = "eigencam"
    gradient = False

    @staticmethod
    def library_class() -> Any:
        """pytorch_grad_cam.EigenCAM."""
        from pytorch_grad_cam import EigenCAM as Library

        return Library

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """Centred activations (places, channels) on their first right singular vector."""
        return np.stack([_component(one) for one in value.cpu().numpy()])


def _component(activation: np.ndarray) -> np.ndarray:
    places = activation.reshape(len(activation), -1).T
    centred = places - places.mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[2][0]
    return (centred @ first).reshape(1, *activation.shape[1:]).astype(np.float32)
