"""Saliency: the plain gradient.

Simonyan, Vedaldi and Zisserman 2013, arXiv 1312.6034.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.method import PixelMethod
from histoxai.explain.bases.single_pass import SinglePass

if TYPE_CHECKING:
    import torch
    from torch import nn


class Saliency(SinglePass, PixelMethod):
    """captum's Saliency of the target's logit, with its sign."""

    name = "saliency"
    label = "Saliency"
    family = "gradient"
    citations = ("simonyan2014",)
    library_package = "captum"
    is_gradient = True

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The gradient of the input; other methods share it, captum would compute it again."""
        assert gradient is not None
        return gradient.cpu().numpy()  # waits: results of a whole micro-batch

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        from captum.attr import Saliency as CaptumSaliency

        return {"": CaptumSaliency(module).attribute(image[None], target=target, abs=False)[0].detach().cpu().numpy()}
