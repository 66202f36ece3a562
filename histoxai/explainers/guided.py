"""Guided backpropagation.

Springenberg et al. 2014, arXiv 1412.6806: the gradient, with negative values set to zero at every ReLU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histoxai.explainers.hooked import Hooked

if TYPE_CHECKING:
    import torch
    from torch import nn


class GuidedBackprop(Hooked):
    """captum's GuidedBackprop of the target's logit.

    Source: arXiv 1412.6806.
    """

    local = True

    name = "guided"

    def method(self, module: nn.Module) -> Any:
        """captum.attr.GuidedBackprop."""
        from captum.attr import GuidedBackprop as Library

        return Library(module)

    def call(self, method: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One forward and backward pass."""
        return method.attribute(images, target=targets)

    @classmethod
    def passes(cls, options: Any) -> str:
        """One."""
        return "1 forward + backward"
