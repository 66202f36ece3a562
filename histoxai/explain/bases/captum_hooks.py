"""Base of methods that captum computes with hooks in every layer: guided backpropagation.

They need every layer to be used once and no tensor to be overwritten in place. Neither the study's CNN (one ReLU and
one pooling for all) nor torchvision's ResNet is like that; `unrolled` makes an equivalent network that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from histoxai.explain.bases.method import Map, RawSpec
from histoxai.explain.bases.packing import Step
from histoxai.explain.bases.sampling import Sampling
from histoxai.explain.bases.tracing import copied_around, traced, weights_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


def unrolled(module: nn.Module, method: str) -> nn.Module:
    """Copy a network so that every use of a layer is a layer of its own, nothing is in place, and modules add tensors.

    Weights are shared with `module`, not copied: those of the study's CNN take 392 MB. method: its name in messages.
    Raises InputRefused if the network's path depends on its inputs.
    """
    graph = traced(module, method)
    _separate_uses(graph, weights_of(module))
    for part in graph.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    return graph


def _separate_uses(graph: Any, weights: dict[int, Any]) -> None:
    # give every further use of a layer, and every function that has a layer, a layer of its own
    seen: set[str] = set()
    for node in list(graph.graph.nodes):
        if node.op == "call_module":
            if node.target in seen:
                fresh = f"{node.target.replace('.', '_')}_again{len(seen)}"
                graph.add_submodule(fresh, copied_around(graph.get_submodule(node.target), weights))
                node.target = fresh
            seen.add(node.target)
        elif (layer := _as_layer(node)) is not None:
            fresh = f"{type(layer).__name__.lower()}{len(seen)}"
            graph.add_submodule(fresh, layer)
            inputs = node.args if node.target in _adds() else node.args[:1]
            node.op, node.target, node.args, node.kwargs = "call_module", fresh, inputs, {}
            seen.add(fresh)
    graph.recompile()


def _adds() -> tuple[Any, ...]:
    import operator

    import torch

    return operator.add, operator.iadd, torch.add, "add", "add_"


def _as_layer(node: Any) -> nn.Module | None:
    # a layer that computes the same as this call of a function or method, if captum has rules for one
    import torch
    from captum.attr._utils.custom_modules import Addition_Module
    from torch.nn import functional

    if node.target in _adds():
        return None if node.kwargs else Addition_Module()  # with `alpha` it is not a plain sum
    if node.target in (torch.relu, torch.relu_, functional.relu, "relu", "relu_"):
        return torch.nn.ReLU()
    if node.target is functional.adaptive_avg_pool2d:
        return torch.nn.AdaptiveAvgPool2d(node.kwargs.get("output_size", node.args[-1]))
    return None


class CaptumHooks(Sampling):
    """A captum method on an unrolled copy of the float32 network; each patch is one row of a micro-batch."""

    family = "gradient"
    library_package = "captum"
    passes = "1 forward + backward"
    # Name of the method's class in captum.attr.
    captum_class: ClassVar[str]

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Also raises InputRefused if the network cannot be unrolled."""
        unrolled(net.exact, self.name)
        return super().raw_specs(net, size)

    def captum_method(self, module: nn.Module) -> Any:
        """captum's object for an unrolled network."""
        from captum import attr

        return getattr(attr, self.captum_class)(module)

    def call(self, method: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Attributions (n, 3, H, W) from captum's object."""
        return method.attribute(images, target=targets)

    def prepare(self) -> None:
        self.rows = 1

    def perturb(self, i: int) -> torch.Tensor:
        return self.image

    def step(self, net: Network) -> Step:
        """captum's attributions on the unrolled network."""
        from histoxai.explain.network import quiet_library

        method = self.captum_method(unrolled(net.exact, self.name))

        def attributions(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            with quiet_library():
                return self.call(method, x.detach().clone(), targets).detach()

        return attributions

    def reduce(self, outputs: torch.Tensor) -> Map:
        return Map({"": outputs[0].float().numpy()})

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's attribution of one patch alone, on the same unrolled copy."""
        import torch

        from histoxai.explain.network import quiet_library

        with quiet_library():
            method = self.captum_method(unrolled(module, self.name))
            attribution = self.call(method, image[None].clone(), torch.tensor([target], device=image.device))
        return {"": attribution[0].detach().cpu().numpy()}
