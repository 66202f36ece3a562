"""DeepLIFT, rescale rule.

Shrikumar, Greenside and Kundaje 2017, arXiv 1704.02685: differences of activations to those of a baseline, passed
back layer by layer. Where pooling windows overlap, as in the study's CNN, captum counts a maximum once, so that
attributions need not add up to F(x) - F(b) exactly; the completeness error is stored beside each map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histoxai.explainers.base import Batch, Map
from histoxai.explainers.hooked import Hooked
from histoxai.explainers.ig import missing_share, rise
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explainers.network import Network


@dataclass(frozen=True)
class Options:
    """baseline: one value in 0..1 for all pixels (0 is black)."""

    baseline: float = bounded(0.0, ge=0, le=1)

    def __post_init__(self) -> None:
        check_bounds(self)


class DeepLift(Hooked):
    """captum's DeepLift of the target's logit, black baseline.

    Source: arXiv 1704.02685.
    """

    Options = Options
    checks = ("completeness_error",)
    name = "deeplift"

    def method(self, module: nn.Module) -> Any:
        """captum.attr.DeepLift."""
        from captum.attr import DeepLift as Library

        return Library(module)

    def call(self, method: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One forward and backward pass of patches and baselines together."""
        return method.attribute(images, baselines=self.options.baseline, target=targets)

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """A patch is one row of a micro-batch."""
        wanted = rise(net, net.ready(batch.images), batch.targets, self.options.baseline)
        for i, found in super().explain(net, batch):
            yield i, Map(found.raw, {"completeness_error": missing_share(found.raw[""], float(wanted[i]))})

    @classmethod
    def passes(cls, options: Any) -> str:
        """One, of patch and baseline."""
        return "2 forward + backward"
