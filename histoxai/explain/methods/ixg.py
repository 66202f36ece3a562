"""Input x gradient.

Shrikumar et al. 2016, arXiv 1605.01713: each pixel times its gradient, the first term of a Taylor expansion
around black.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.method import PixelMethod
from histoxai.explain.bases.single_pass import SinglePass

if TYPE_CHECKING:
    import torch
    from torch import nn


class InputXGradient(SinglePass, PixelMethod):
    """captum's InputXGradient of the target's logit."""

    name = "ixg"
    label = "Input x gradient"
    family = "gradient"
    citations = ("shrikumar2016",)
    library_package = "captum"

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The input times its gradient; other methods share the gradient, captum would compute it again."""
        assert gradient is not None
        return (value * gradient).cpu().numpy()  # waits: results of a whole micro-batch

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        from captum.attr import InputXGradient as CaptumIXG

        return {"": CaptumIXG(module).attribute(image[None], target=target)[0].detach().cpu().numpy()}
