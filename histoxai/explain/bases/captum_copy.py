"""Copies of a network in layers that captum's LRP and DeepLIFT have rules for: the oracles of our own rules.

captum sets hooks in modules. In these copies every step that needs a rule is a module of its own, nothing is in place,
no two layers of captum's DeepLIFT share a tensor, and no pooling windows overlap.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from histoxai.explain.bases.epsilon_rule import GATES, EpsilonRule
from histoxai.explain.bases.propagation import KINKED, MAX_POOLS, ROUTING, SMOOTH, Step
from histoxai.explain.bases.rescale_rule import RescaleRule, pair, place_in_window, rounding_of

# Layers of captum's DeepLIFT by the name of the step.
_ACTIVATIONS = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leakyrelu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}

# Changes of a layer's input below which captum's DeepLIFT takes the gradient.
_CAPTUM_EPSILON = 1e-10


def computes_the_same(copied: nn.Module, module: nn.Module, x: torch.Tensor) -> bool:
    """Whether a copy gives the network's logits; not if a step overwrites values that another reads."""
    twice = torch.cat([x, x]).detach()  # as captum's DeepLIFT runs it, with a baseline for each patch
    ours, theirs = copied(twice.clone().requires_grad_()).detach(), module(twice)
    return float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


class _Module(nn.Module):
    """One step as a module; `step` is the one that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.step: Any = None

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the step's output for these values that depend on the patch."""
        return self.step(*inputs)


class LRPCopy(nn.Module):
    """A network in which each step that calculates is a module in `steps`, by the name of its node.

    activations: names of those that hand on relevance whole. The others take captum's epsilon rule.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        run = _EpsilonModules(graph)
        nodes = [node for node in graph.graph.nodes if node.op.startswith("call")]
        self.activations = {node.name for node in nodes if run.word(node) in (*KINKED, *SMOOTH)}
        self.steps = nn.ModuleDict({node.name: _Module() for node in nodes})
        run.steps = self.steps
        self._run = [run]  # in a list, so that the network's own layers get no hooks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of (n, 3, H, W)."""
        return self._run[0].run(x)


class _EpsilonModules(EpsilonRule):
    """Runs each step that calculates inside its module, where captum's rule replaces the derivative."""

    steps: nn.ModuleDict

    def run_step(self, step: Step) -> Any:
        if step.word in (*ROUTING, *GATES):  # which is never in a module: a gate is a constant
            return super().run_step(step)
        module = self.steps[step.node.name]
        module.step = lambda *inputs: step.at(*[x.clone() for x in inputs])  # the step may overwrite its input
        return module(*[x.clone() for x in step.inputs])  # captum's hooks of two modules on one tensor would mix


class DeepLiftCopy(nn.Module):
    """A network in which each activation and max-pooling is a layer of captum's own."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        run = _CaptumLayers(graph, 0.0)
        self.steps = nn.ModuleDict({n.name: run.layer(n) for n in graph.graph.nodes if run.needs_layer(n)})
        run.steps = self.steps
        self._run = [run]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of (n, 3, H, W)."""
        return self._run[0].run(x)


class _CaptumLayers(RescaleRule):
    """Runs activations and max-poolings in captum's layers; raises KeyError for a step that captum has no layer for."""

    steps: nn.ModuleDict

    def needs_layer(self, node: fx.Node) -> bool:
        """Whether a step is an activation or a max-pooling."""
        return node.op.startswith("call") and self.word(node) in (*KINKED, *SMOOTH, *MAX_POOLS)

    def layer(self, node: fx.Node) -> nn.Module:
        """captum's layer for a step."""
        word = self.word(node)
        if word in MAX_POOLS:
            return _Windows(self.pool(node))
        kind = _ACTIVATIONS[word]
        if node.op != "call_module":
            if len(node.args) > 1 or set(node.kwargs) - {"inplace"}:
                raise KeyError(word)
            return kind()
        layer = copy.deepcopy(self.fetch_attr(str(node.target)))
        layer.inplace = False
        return layer

    def activation(self, step: Step) -> torch.Tensor:
        # a tensor of its own: captum's hooks of two layers on one tensor lose the rule of the second
        return self.steps[step.node.name](step.inputs[0].clone())

    max_pool = activation

    def product(self, step: Step) -> torch.Tensor:
        raise KeyError(step.word)


class _Windows(nn.Module):
    """A max-pooling whose windows are cut out before captum's layer, so that none overlaps another."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        if type(pool) is not nn.MaxPool2d:
            raise KeyError(type(pool).__name__)
        self._pool = [pool]
        sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        self._kernel, self._stride, self._padding, self._dilation = map(pair, sizes)
        self.largest = nn.MaxPool2d((1, self._kernel[0] * self._kernel[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooling's output."""
        shape = self._pool[0](x.detach())[0].shape
        lowest = float(x.detach().min()) - 1
        windows = self._cut(x, shape, lowest)
        order = place_in_window(self._pool[0], x).expand(1, 1, *x.shape[2:])
        counted, handed_on = _counted(windows.detach(), self._cut(order, shape, 0.0))
        windows = torch.where(counted, torch.where(handed_on, windows, windows.detach()), lowest)
        return self.largest(windows.contiguous()).view(shape)

    def _cut(self, x: torch.Tensor, shape: torch.Size, value: float) -> torch.Tensor:
        # windows (n, channels, windows, values), for an output of this shape
        ends = []
        for i in (1, 0):
            reach = (shape[2 + i] - 1) * self._stride[i] + self._dilation[i] * (self._kernel[i] - 1) + 1
            ends += [self._padding[i], max(reach - x.shape[2 + i] - self._padding[i], 0)]
        padded = functional.pad(x, ends, value=value)
        windows = functional.unfold(padded, self._kernel, self._dilation, 0, self._stride)
        return windows.view(*x.shape[:2], -1, windows.shape[-1]).transpose(2, 3)


def _counted(windows: torch.Tensor, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which values of windows (patches and baselines, ..., values) count, and which get a multiplier.

    Where the window falls, the patch's largest value counts, and the baseline's if it is larger there by more than
    rounding; `order` chooses among equals. captum gives a multiplier to the patch's largest value too if the baseline
    has the same; ours does not.
    """
    values, ground = windows.chunk(2)
    places = values.argmax(-1, keepdim=True)
    highest, rounding = ground.amax(-1, keepdim=True), rounding_of(ground)
    falls = values.amax(-1, keepdim=True) < highest
    is_even = ground.gather(-1, places) >= highest - rounding
    of_baseline = (ground - rounding * order).argmax(-1, keepdim=True)
    nowhere = torch.zeros_like(values, dtype=torch.bool)
    at_largest, at_highest = nowhere.scatter(-1, places, True), nowhere.scatter(-1, of_baseline, True)
    counted = at_largest | (at_highest & ~is_even) | ~falls
    handed_on = ~(at_largest & falls & ~is_even & ((values - ground).abs() < _CAPTUM_EPSILON))
    twice = (2, *[1] * (windows.ndim - 1))
    return counted.repeat(twice), handed_on.repeat(twice)
