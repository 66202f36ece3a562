"""Layer-wise relevance propagation, epsilon rule.

Bach et al. 2015, doi 10.1371/journal.pone.0130140: the logit is propagated back layer by layer, to each input in
proportion to its contribution. Networks with layers that have no rule (attention, layer norm) are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histoxai.core.errors import InputRefused, is_out_of_memory
from histoxai.explain.bases.captum_hooks import INSTEAD, CaptumHooks, unrolled
from histoxai.explain.bases.method import RawSpec

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network


class LRP(CaptumHooks):
    """captum's LRP of the target's logit, epsilon rule in every layer, batch normalisation included."""

    name = "lrp"
    label = "LRP (epsilon rule)"
    citations = ("bach2015",)
    captum_class = "LRP"
    passes = "2 forward + 1 backward"

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Also raises InputRefused if a layer has no rule."""
        import torch

        from histoxai.explain.network import quiet_library

        ready = net.ready(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
        targets = torch.zeros(1, dtype=torch.long, device=net.device)
        try:
            with quiet_library():
                self.call(self.captum_method(unrolled(net.exact, self.name)), ready, targets)
        except (TypeError, RuntimeError, AttributeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            why = str(error).splitlines()[0][:120]
            raise InputRefused(f"lrp: this network has a layer that it has no rule for ({why}); {INSTEAD}") from error
        return super().raw_specs(net, size)

    def call(self, method: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Two forward passes and a backward one; captum removes its rules afterwards, so they are set each time."""
        from captum.attr._utils.lrp_rules import EpsilonRule
        from torch import nn

        for part in method.model.modules():
            affine = getattr(part, "indivisible", False)  # a network's own normalisation of its input
            if affine or isinstance(part, nn.BatchNorm1d | nn.Identity | nn.Flatten | nn.AvgPool2d):
                part.rule = EpsilonRule()
        return super().call(method, images, targets)
