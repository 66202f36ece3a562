"""The epsilon rule of LRP as multipliers.

Relevance of an input z_i of a linear step with output z is z_i / (z + epsilon) times that of z; biases take their share
(Bach et al. 2015, eq. 58). As a multiplier, relevance over value, that is the derivative. Nothing is divided then, and
epsilon is 0. For networks of ReLUs the map is input x gradient (Ancona et al. 2018, arXiv 1711.06104). An activation
hands on its relevance whole, so that its multiplier is output over input. Of a product with a gate, a sigmoid, the
other factor gets all (Arras et al. 2017, arXiv 1706.07206).
"""

from __future__ import annotations

import torch
from torch import fx

from histoxai.explain.bases.propagation import PRODUCTS, ROUTING, Attributed, Propagation, Step, replaced_slope
from histoxai.explain.network import of_targets

# Activations whose derivative is output over input already.
_HOMOGENEOUS = ("relu", "leakyrelu", "prelu")
GATES = ("sigmoid", "hardsigmoid")
_NOT_ZERO_AT_ZERO = ("softplus", *GATES)


class EpsilonRule(Propagation):
    """LRP's epsilon rule in every layer; `total` is the logit without the relevance that biases took."""

    method = "lrp"

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self._biases: dict[fx.Node, torch.Tensor | None] = {}
        self._dependent: set[fx.Node] = set()
        for node in graph.graph.nodes:
            if node.op == "placeholder" or self._dependent.intersection(node.all_input_nodes):
                self._dependent.add(node)

    def attribute(self, x: torch.Tensor, targets: torch.Tensor) -> Attributed:
        """Relevance of each pixel; the share of biases is the derivative by a factor of 1 + 0 on all of them."""
        x = x.detach().requires_grad_()
        self._factor = torch.zeros(len(x), dtype=x.dtype, device=x.device, requires_grad=True)
        logits = self.run(x)
        logit = of_targets(logits, targets)
        multiplier, biases = torch.autograd.grad(logit.sum(), (x, self._factor), allow_unused=True)
        relevance = (x * (torch.zeros_like(x) if multiplier is None else multiplier)).detach()
        total = logit.detach() - (torch.zeros_like(logit) if biases is None else biases)
        return Attributed(relevance, total, logits.detach())

    def activation(self, step: Step) -> torch.Tensor:
        if step.word in GATES and self._is_gate(step.node):
            return step().detach()
        if step.word in _NOT_ZERO_AT_ZERO:
            self.refuse(step.node, ", which is not 0 at 0 and no gate of a product")
        if step.word in _HOMOGENEOUS:
            return step()
        x = step.inputs[0]
        value, y = x.detach(), step.at(x.detach().clone())
        return replaced_slope(y, torch.where(value == 0, 0, y / torch.where(value == 0, 1, value)), x)

    def _is_gate(self, node: fx.Node) -> bool:
        # whether all that becomes of a value is to be multiplied with another that depends on the patch
        def in_product(user: fx.Node) -> bool:
            others = [other for other in user.all_input_nodes if other is not node]
            if self.word(user) in PRODUCTS and self._dependent.intersection(others):
                return True
            return self.word(user) in (*ROUTING, *PRODUCTS) and self._is_gate(user)

        return bool(node.users) and all(map(in_product, node.users))

    def max_pool(self, step: Step) -> torch.Tensor:
        """The largest value of a window gets all, by autograd."""
        return step()

    def product(self, step: Step) -> torch.Tensor:
        self.refuse(step.node, " of two values, neither of them a gate")

    def linear(self, step: Step) -> torch.Tensor:
        """The step's output; its constant part has the factor whose derivative counts the relevance of biases."""
        if step.node not in self._biases:
            self._biases[step.node] = self._bias(step)
        bias, y = self._biases[step.node], step()
        if bias is None:
            return y
        if len(y) != len(self._factor):
            self.refuse(step.node, " across patches")
        return y + self._factor.view(-1, *[1] * (y.ndim - 1)) * bias

    @torch.no_grad()
    def _bias(self, step: Step) -> torch.Tensor | None:
        # the output of one row for zeros, the same for every row; None if it is 0
        rows = len(self._factor)
        zeros = [torch.zeros_like(x[:1] if x.ndim and len(x) == rows else x) for x in step.inputs]
        bias = step.at(*zeros)
        return bias if bias.any() else None  # waits: once a step and work item
