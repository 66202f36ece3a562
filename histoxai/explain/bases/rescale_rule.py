"""The rescale rule of DeepLIFT as multipliers: differences of outputs over differences of inputs to a baseline.

captum's rules lose contributions where two of its layers are neighbours, since the hook of the first reads the gradient
before the hook of the second has replaced it, and where pooling windows overlap, since `max_unpool` writes one maximum
over another. Here contributions add up to F(x) - F(b) whatever the layers.
"""

from __future__ import annotations

import copy

import torch
from torch import fx
from torch.nn import functional

from histoxai.explain.bases.propagation import KINKED, Attributed, Propagation, Step, replaced_slope
from histoxai.explain.network import of_targets


class RescaleRule(Propagation):
    """DeepLIFT's rescale rule; the baseline, of one value everywhere, is the last row of every tensor."""

    method = "deeplift"

    def __init__(self, graph: fx.GraphModule, baseline: float) -> None:
        super().__init__(graph)
        self._baseline, self._rows = baseline, 0

    def attribute(self, x: torch.Tensor, targets: torch.Tensor) -> Attributed:
        """Contributions of each pixel's difference to the baseline; they add up to F(x) - F(b)."""
        rows = torch.cat([x.detach(), torch.full_like(x[:1], self._baseline)])
        rows = rows.contiguous(memory_format=torch.channels_last).requires_grad_()
        self._rows = len(rows)
        logits = self.run(rows)
        logit = of_targets(logits[:-1], targets)
        multiplier = torch.autograd.grad(logit.sum(), rows)[0][:-1]
        logits = logits.detach()
        total = logit.detach().double() - logits[-1][targets].double()
        return Attributed((x - self._baseline).detach() * multiplier, total, logits[:-1])

    def activation(self, step: Step) -> torch.Tensor:
        """Difference of outputs over that of inputs; where that is 0, the slope.

        Of a smooth function the slope halfway is exact to rounding before the ratio of two rounded differences is.
        """
        x = self._with_baseline(step)[0]
        least = 0.0 if step.word in KINKED else torch.finfo(x.dtype).eps ** (1 / 3)
        y = step.at(x.detach().clone())
        change = x.detach() - x.detach()[-1:]
        with torch.enable_grad():
            halfway = (x.detach() - change / 2).requires_grad_()
            slope = torch.autograd.grad(step.at(halfway.clone()).sum(), halfway)[0]
        ratio = (y - y[-1:]) / torch.where(change == 0, 1, change)
        return replaced_slope(y, torch.where(change.abs() <= least, slope, ratio), x)

    def max_pool(self, step: Step) -> torch.Tensor:
        """One place of each window takes its change: the patch's largest, or the baseline's where that is larger.

        The place's own change is at least the window's, so that the multiplier is in 0..1. Windows may overlap.
        """
        x = self._with_baseline(step)[0]
        y, places = self._with_places(step, x.detach())
        places = torch.where(y >= y[-1:], places, places[-1:].expand_as(places)).flatten(-2)
        chosen = x.flatten(-2).gather(-1, places)
        change = chosen.detach() - x.detach()[-1:].flatten(-2).expand(len(x), -1, -1).gather(-1, places)
        rise = (y - y[-1:]).flatten(-2)
        multiplier = torch.where(change == 0, 1, rise / torch.where(change == 0, 1, change))
        return replaced_slope(y.flatten(-2), multiplier, chosen).view(y.shape)

    def _with_places(self, step: Step, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # outputs of a pooling, and the place (among h * w) of each of them
        if step.node.op == "call_module":
            pool = copy.copy(self.fetch_attr(str(step.node.target)))
            pool.return_indices = True
            return pool(x)
        function = getattr(functional, self.name_of(step.node))
        return function(x, *step.args[1:], **{**step.kwargs, "return_indices": True})

    def product(self, step: Step) -> torch.Tensor:
        """Each factor's change times the other's mean of patch and baseline, which add up to the product's change."""
        a, b = self._with_baseline(step)
        if a.ndim != b.ndim:
            self.refuse(step.node, " of tensors with different dimensions")
        of_a, of_b = ((other + other[-1:]).detach() / 2 for other in (b, a))
        return a.detach() * b.detach() + of_a * (a - a.detach()) + of_b * (b - b.detach())

    def linear(self, step: Step) -> torch.Tensor:
        return step()

    def _with_baseline(self, step: Step) -> list[torch.Tensor]:
        # the inputs of a step whose last row must be the baseline's
        if any(x.ndim == 0 or len(x) != self._rows for x in step.inputs):
            self.refuse(step.node, " across patches")
        return step.inputs
