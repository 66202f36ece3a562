"""Layer-wise relevance propagation, epsilon rule.

Bach et al. 2015, doi 10.1371/journal.pone.0130140: the logit is propagated back layer by layer, to each input in
proportion to its contribution. The rules are histoxai's own (bases/epsilon_rule.py): captum's pass relevance on as if
it were a gradient through every function that is no module. Networks with steps that have no rule are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.layer_rules import LayerRules
from histoxai.explain.bases.path import completeness_error
from histoxai.explain.bases.tracing import traced

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from histoxai.explain.bases.propagation import Propagation

# captum's default of 1e-9 shows in maps where a value of 1e-5 has large contributions of either sign.
_EPSILON = 1e-16


class LRP(LayerRules):
    """LRP of the target's logit, epsilon rule in every layer, batch normalisation included; as captum's."""

    name = "lrp"
    label = "LRP (epsilon rule)"
    citations = ("bach2015",)
    checks = ("conservation_error", "bias_share")
    sum_check = "conservation_error"

    def rules(self, graph: fx.GraphModule) -> Propagation:
        """The epsilon rule in every step."""
        from histoxai.explain.bases.epsilon_rule import EpsilonRule

        return EpsilonRule(graph)

    def checks_of(self, values: np.ndarray, total: float, logit: float) -> dict[str, float]:
        """How far pixels and biases together are from the logit, and the share of biases, both of the logit."""
        biases = logit - total
        error = completeness_error(np.append(values.astype(np.float64), biases), logit)
        return {self.sum_check: error, "bias_share": biases / logit if logit else float("nan")}

    def captum_attributions(self, module: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Any:
        """captum's LRP with its epsilon rule in every step that calculates; activations hand on all they get."""
        from captum.attr import LRP as CaptumLRP
        from captum.attr._utils.lrp_rules import EpsilonRule, IdentityRule

        from histoxai.explain.bases.captum_copy import LRPCopy, computes_the_same

        copied = LRPCopy(traced(module, self.name))
        if not computes_the_same(copied, module, images):
            return None
        for name, step in copied.steps.items():
            step.rule = IdentityRule() if name in copied.activations else EpsilonRule(_EPSILON)
        return CaptumLRP(copied).attribute(images, target=targets)
