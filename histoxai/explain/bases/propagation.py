"""Run a network step by step, so that autograd propagates the multipliers of a method's rules.

A multiplier is the share of the logit for each unit of a value; times its value (LRP) or its difference to the baseline
(DeepLIFT) it is the value's contribution. Through steps that are linear in what depends on the patch, multipliers go as
derivatives go, and autograd computes them: convolutions, batch normalisation, averages, sums, and all that only moves
values. For every other step a subclass has a rule. A step of neither kind is refused by name, since autograd would take
its derivative in silence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import fx
from torch.fx.node import map_aggregate

from histoxai.core.errors import InputRefused
from histoxai.explain.bases.tracing import INSTEAD

# Names of modules, functions and methods alike: in lower case, without underscores.
_ROUTING = """
    identity dropout dropout1d dropout2d dropout3d featuredropout alphadropout stochasticdepth flatten unflatten view
    reshape viewas permute transpose movedim swapaxes t contiguous squeeze unsqueeze expand expandas repeat getitem
    chunk split splitwithsizes unbind narrow select roll flip rot90 clone pixelshuffle pixelunshuffle channelshuffle
    unfold to float double type typeas size dim shape getattr numel assert
"""
_LINEAR = """
    linear conv1d conv2d conv3d convtranspose1d convtranspose2d convtranspose3d batchnorm batchnorm1d batchnorm2d
    batchnorm3d syncbatchnorm avgpool1d avgpool2d avgpool3d adaptiveavgpool1d adaptiveavgpool2d adaptiveavgpool3d pad
    zeropad2d constantpad2d reflectionpad2d replicationpad2d interpolate upsample upsamplingbilinear2d
    upsamplingnearest2d fold truediv itruediv div matmul bmm einsum
"""
# Steps that move, repeat or drop values.
ROUTING = frozenset(_ROUTING.split())
# Steps that are linear, or affine, in one value if all others are constants.
LINEAR = frozenset(_LINEAR.split())
# Linear steps in any number of values.
SUMS = frozenset(("add", "iadd", "sub", "isub", "rsub", "neg", "cat", "concat", "stack", "sum", "mean"))
PRODUCTS = frozenset(("mul", "imul", "multiply"))
MAX_POOLS = frozenset(("maxpool2d", "adaptivemaxpool2d"))
# Functions of each value alone: straight lines with kinks, and others.
KINKED = frozenset(
    ("relu", "leakyrelu", "prelu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "elu", "selu", "celu")
)
SMOOTH = frozenset(("gelu", "silu", "swish", "mish", "tanh", "sigmoid", "softplus", "softsign"))

_CALLS = ("call_function", "call_method", "call_module")


@dataclass(frozen=True)
class Step:
    """One step of a run: its node, its name, its arguments, and `execute(args, kwargs)`.

    inputs: those tensors among the arguments that depend on the patch.
    """

    node: fx.Node
    word: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    execute: Callable[[tuple[Any, ...], dict[str, Any]], Any]

    @cached_property
    def inputs(self) -> list[torch.Tensor]:
        """Tensors that depend on the patch, in the order of arguments."""
        found: list[torch.Tensor] = []
        map_aggregate((self.args, self.kwargs), lambda a: found.append(a) if _depends(a) else None)
        return found

    def __call__(self) -> Any:
        """Return the step's output."""
        return self.execute(self.args, self.kwargs)

    def at(self, *values: torch.Tensor) -> Any:
        """Return the step's output for other values of `inputs`."""
        return self.execute(*self.replaced(*values))

    def replaced(self, *values: torch.Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments with other values of `inputs`."""
        left = list(values)
        args, kwargs = map_aggregate((self.args, self.kwargs), lambda a: left.pop(0) if _depends(a) else a)
        return tuple(args), dict(kwargs)


def _depends(value: Any) -> bool:
    # weights are frozen, so that only what depends on the patch has a gradient
    return isinstance(value, torch.Tensor) and value.requires_grad


@dataclass(frozen=True)
class Attributed:
    """Attributions of some patches: values (n, 3, H, W), the `total` (n,) that each adds up to, logits (n, classes)."""

    values: torch.Tensor
    total: torch.Tensor
    logits: torch.Tensor


class Propagation(fx.Interpreter):
    """The rules of a method on a traced network; `attribute` runs it forward and backward."""

    method = ""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # it rewrites errors

    @abstractmethod
    def attribute(self, x: torch.Tensor, targets: torch.Tensor) -> Attributed:
        """Attributions of patches (n, 3, H, W) for their target logits."""

    @abstractmethod
    def activation(self, step: Step) -> torch.Tensor:
        """Output of a function of each value alone."""

    @abstractmethod
    def max_pool(self, step: Step) -> torch.Tensor:
        """Output of a max-pooling."""

    @abstractmethod
    def product(self, step: Step) -> torch.Tensor:
        """Output of a product of two values that depend on the patch."""

    @abstractmethod
    def linear(self, step: Step) -> torch.Tensor:
        """Output of a step that is linear, but for a constant, in what depends on the patch."""

    def run_node(self, n: fx.Node) -> Any:
        """Run one step by its rule; raises InputRefused if it has none."""
        if n.op not in _CALLS:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        step = Step(n, self.word(n), args, kwargs, lambda a, k: getattr(self, n.op)(n.target, a, k))
        return self.run_step(step) if step.inputs else step()

    def run_step(self, step: Step) -> Any:
        """Run a step that depends on the patch by its rule."""
        word, inputs = step.word, step.inputs
        if word in ROUTING:
            return step()
        if word in KINKED or word in SMOOTH:
            return self.activation(step)
        if word in MAX_POOLS:
            return self.max_pool(step)
        if word in PRODUCTS and len(inputs) == 2:
            return self.product(step)
        indivisible = step.node.op == "call_module" and getattr(
            self.fetch_attr(str(step.node.target)), "indivisible", 0
        )
        if word in SUMS or ((word in LINEAR or word in PRODUCTS or indivisible) and _is_linear(step)):
            return self.linear(step)
        self.refuse(step.node)

    def word(self, node: fx.Node) -> str:
        """Name of a step as in the tables above."""
        return self.name_of(node).lower().replace("_", "")

    def name_of(self, node: fx.Node) -> str:
        """Name of a step in messages: of the module's class, the function or the method."""
        if node.op == "call_module":
            return type(self.fetch_attr(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.target))

    def refuse(self, node: fx.Node, why: str = "") -> NoReturn:
        """Raise InputRefused for a step without a rule."""
        where = f"{self.name_of(node)}{f' {node.target}' if node.op == 'call_module' else ''}{why}"
        raise InputRefused(f"{self.method}: this network has a step that it has no rule for ({where}); {INSTEAD}")


def _is_linear(step: Step) -> bool:
    # one value that depends on the patch, in the place in which the step is linear
    one = len(step.inputs) == 1
    return one and (step.word not in ("truediv", "itruediv", "div") or step.args[0] is step.inputs[0])


def replaced_slope(y: torch.Tensor, multiplier: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `y`, whose derivative with respect to `x` is `multiplier`."""
    return y.detach() + multiplier.detach() * (x - x.detach())
