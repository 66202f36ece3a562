"""DeepLIFT, rescale rule.

Shrikumar, Greenside and Kundaje 2017, arXiv 1704.02685: differences of activations to those of a baseline, propagated
back layer by layer. The rules are histoxai's own (bases/rescale_rule.py): captum's lose contributions where a
max-pooling follows a ReLU or its windows overlap, as in the study's CNN and in ResNets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histoxai.explain.bases.layer_rules import LayerRules
from histoxai.explain.bases.method import MethodOptions
from histoxai.explain.bases.tracing import traced
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from histoxai.explain.bases.propagation import Propagation


@dataclass(frozen=True)
class Options(MethodOptions):
    """baseline: one value in 0..1 for all pixels (0 is black)."""

    baseline: float = bounded(0.0, ge=0, le=1)


class DeepLift(LayerRules):
    """DeepLIFT of the target's logit, rescale rule, black baseline; as captum's, and complete."""

    name = "deeplift"
    label = "DeepLIFT (rescale rule)"
    citations = ("shrikumar2017",)
    Options = Options
    checks = ("completeness_error",)
    sum_check = "completeness_error"

    def rules(self, graph: fx.GraphModule) -> Propagation:
        """The rescale rule in every step that is not linear."""
        from histoxai.explain.bases.rescale_rule import RescaleRule

        return RescaleRule(graph, self.options.baseline)

    def captum_attributions(self, module: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Any:
        """captum's DeepLIFT; None if a step is none of its layers."""
        from captum.attr import DeepLift as CaptumDeepLift

        from histoxai.explain.bases.captum_copy import DeepLiftCopy, computes_the_same

        try:
            copied = DeepLiftCopy(traced(module, self.name))
            if not computes_the_same(copied, module, images):
                return None
        except KeyError:
            return None
        return CaptumDeepLift(copied).attribute(images, baselines=self.options.baseline, target=targets)
