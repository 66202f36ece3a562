"""Guided backpropagation.

Springenberg et al. 2014, arXiv 1412.6806: the gradient, with negative values set to zero at every ReLU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histoxai.core.errors import InputRefused
from histoxai.explain.bases.captum_hooks import CaptumHooks, unrolled
from histoxai.explain.bases.method import RawSpec

if TYPE_CHECKING:
    from histoxai.explain.network import Network


class GuidedBackprop(CaptumHooks):
    """captum's GuidedBackprop of the target's logit."""

    name = "guided"
    label = "Guided backpropagation"
    citations = ("springenberg2015",)
    captum_class = "GuidedBackprop"
    is_gradient = True

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Also raises InputRefused if there is no ReLU: the map would be the plain gradient under another name."""
        from torch import nn

        if not any(isinstance(part, nn.ReLU) for part in unrolled(net.exact, self.name).modules()):
            raise InputRefused(
                "guided: this network has no ReLU, and without one it is saliency; use that with --method"
            )
        return super().raw_specs(net, size)
