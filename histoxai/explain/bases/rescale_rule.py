"""The rescale rule of DeepLIFT as multipliers: differences of outputs over differences of inputs to a baseline.

captum's rules lose contributions where two of its layers are neighbours, since the hook of the first reads the gradient
before the hook of the second has replaced it, and where pooling windows overlap, since `max_unpool` writes one maximum
over another. Here contributions add up to F(x) - F(b) whatever the layers.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

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
        """One place of each window takes its change, so that windows may overlap; the multiplier is in 0..1.

        It is the patch's largest, or the baseline's where that is larger by more than rounding. Then the place's own
        change is at least the window's.
        """
        x = self._with_baseline(step)[0]
        pool = self.pool(step.node)
        y, places = pool(x.detach())
        lowered = x.detach()[-1:] - rounding_of(x.detach()[-1:]) * place_in_window(pool, x)
        of_baseline = pool(lowered)[1].flatten(-2)
        shape, flat, places, y = y.shape, x.flatten(-2), places.flatten(-2), y.flatten(-2)
        ground = flat.detach()[-1:].expand(len(x), -1, -1)
        is_even = ground.gather(-1, places) >= y[-1:] - rounding_of(ground[-1:])
        places = torch.where((y >= y[-1:]) | is_even, places, of_baseline)
        chosen = flat.gather(-1, places)
        change = chosen.detach() - ground.gather(-1, places)
        multiplier = torch.where(change == 0, 1, (y - y[-1:]) / torch.where(change == 0, 1, change)).clamp(0, 1)
        return replaced_slope(y, multiplier, chosen).view(shape)

    def pool(self, node: fx.Node) -> nn.MaxPool2d | nn.AdaptiveMaxPool2d:
        """A max-pooling as a module, which returns the places (among h * w) of its outputs too."""
        if node.op == "call_module":
            pool = copy.copy(self.fetch_attr(str(node.target)))
            pool.return_indices = True
            return pool
        kind: Any = {"max_pool2d": nn.MaxPool2d, "adaptive_max_pool2d": nn.AdaptiveMaxPool2d}[self.name_of(node)]
        return kind(*node.args[1:], **{**node.kwargs, "return_indices": True})

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


def rounding_of(values: torch.Tensor) -> torch.Tensor:
    """Differences between values of a baseline that are no more than rounding: 64 units of the largest's last place."""
    return 64 * torch.finfo(values.dtype).eps * values.abs().amax()


def place_in_window(pool: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A number (h, w) of each place that no other place of its windows has: it chooses among equals, not rounding.

    A baseline of one colour gives values that are equal but for rounding. 0 for a pooling without fixed windows.
    """
    if not isinstance(pool, nn.MaxPool2d):
        return x.new_zeros(())
    (height, width), dilation = pair(pool.kernel_size), pair(pool.dilation)
    rows, columns = (torch.arange(n, device=x.device) // d for n, d in zip(x.shape[-2:], dilation, strict=True))
    return (rows[:, None] % height * width + columns % width).to(x.dtype)


def pair(value: Any) -> tuple[int, int]:
    """A size for both directions."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
