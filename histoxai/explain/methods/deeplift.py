"""DeepLIFT, rescale rule.

Shrikumar, Greenside and Kundaje 2017, arXiv 1704.02685: differences of activations to those of a baseline, propagated
back layer by layer. Where pooling windows overlap, as in the study's CNN, captum counts a maximum once, so that
attributions need not add up to F(x) - F(b) exactly; the completeness error is stored beside each map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histoxai.core.errors import InputRefused
from histoxai.explain.bases.captum_hooks import INSTEAD, CaptumHooks, unrolled
from histoxai.explain.bases.method import Batch, Map, MethodOptions, RawSpec
from histoxai.explain.bases.path import logit_differences, with_completeness
from histoxai.settings import bounded

if TYPE_CHECKING:
    import numpy as np
    import torch

    from histoxai.explain.network import Network

# Functions that only add, move or average values.
_LINEAR = {
    *("cat", "flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "expand"),
    *("mean", "sum", "add", "sub", "adaptive_avg_pool2d", "avg_pool2d", "pad", "stochastic_depth"),
    *("size", "dim", "getattr", "getitem", "eq", "floordiv", "_assert"),
}


@dataclass(frozen=True)
class Options(MethodOptions):
    """baseline: one value in 0..1 for all pixels (0 is black)."""

    baseline: float = bounded(0.0, ge=0, le=1)


class DeepLift(CaptumHooks):
    """captum's DeepLift of the target's logit, black baseline."""

    name = "deeplift"
    label = "DeepLIFT (rescale rule)"
    citations = ("shrikumar2017",)
    Options = Options
    checks = ("completeness_error",)
    captum_class = "DeepLift"
    passes = "2 forward + backward"

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Also raises InputRefused if captum has no rule for a step and would treat it as linear."""
        if (step := _without_rule(unrolled(net.exact, self.name))) is not None:
            raise InputRefused(f"deeplift: this network has a step that it has no rule for ({step}); {INSTEAD}")
        return super().raw_specs(net, size)

    def call(self, method: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One forward and backward pass of patches and baselines together."""
        return method.attribute(images, baselines=self.options.baseline, target=targets)

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        yield from with_completeness(super().explain(net, batch), self._differences(net, batch))

    def explain_with_library(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        yield from with_completeness(super().explain_with_library(net, batch), self._differences(net, batch))

    def _differences(self, net: Network, batch: Batch) -> np.ndarray:
        return logit_differences(net, net.ready(batch.images), batch.targets, self.options.baseline)


def _without_rule(traced: Any) -> str | None:
    # the first layer or function that is neither linear nor known to captum
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
    from captum.attr._utils.custom_modules import Addition_Module
    from torch import nn

    linear = (nn.Linear, nn.modules.conv._ConvNd, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    same = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, Addition_Module)
    steps = list(traced.graph.nodes)
    for part in (traced.get_submodule(node.target) for node in steps if node.op == "call_module"):
        known = isinstance(part, (*linear, *same, *SUPPORTED_NON_LINEAR)) or getattr(part, "indivisible", False)
        if not known:
            return type(part).__name__
    called = [node.target for node in steps if node.op in ("call_function", "call_method")]
    names = [getattr(target, "__name__", str(target)) for target in called]
    return next((name for name in names if name not in _LINEAR), None)
