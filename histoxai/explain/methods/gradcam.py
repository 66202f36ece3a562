"""GradCAM.

Selvaraju et al. 2017, arXiv 1610.02391: activations of a layer, weighted by the spatial mean of the
target's gradient, summed over channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.cam import SinglePassCAM

if TYPE_CHECKING:
    import torch


class GradCAM(SinglePassCAM):
    """pytorch-grad-cam's GradCAM of the target's logit at the last convolution (the study: conv3, before ReLU)."""

    name = "gradcam"
    label = "GradCAM"
    citations = ("selvaraju2017",)
    library_class = "GradCAM"

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The weighted sum, on the device, so that one plane instead of all channels is copied to the CPU."""
        assert gradient is not None
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        return (weights * value).sum(dim=1, keepdim=True).cpu().numpy()  # waits: results of a whole micro-batch
