"""GradCAM.

Selvaraju et al. 2017, arXiv 1610.02391: activations of a layer, weighted by the spatial mean of the
target's gradient, summed over channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.cam import SinglePassCAM

if TYPE_CHECKING:
    import torch


class GradCAM(SinglePassCAM):
    """pytorch-grad-cam's GradCAM of the target's logit at the last convolution (the study: conv3, before ReLU).

    Source: arXiv 1610.02391.
    """

    name = "gradcam"

    @staticmethod
    def library_class() -> Any:
        """pytorch_grad_cam.GradCAM."""
        from pytorch_grad_cam import GradCAM as Library

        return Library

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The weighted sum, on the device: one plane instead of all channels has to cross over."""
        assert gradient is not None
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        return (weights * value).sum(dim=1, keepdim=True).cpu().numpy()
