"""Methods that captum computes with hooks in every layer: DeepLIFT, guided backpropagation, LRP.

They need each layer to be used once and nothing to be overwritten in place, which neither the study's CNN (one ReLU
and one pooling for all) nor torchvision's ResNet keeps. `unrolled` makes a network that computes the same and does.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.explain.bases.method import PixelMethod, Batch, Map, RawSpec
from histoxai.explain.bases.packing import PatchInputs, run_packed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

# What messages advise for networks that a method cannot take apart.
INSTEAD = "use ig, saliency or gradcam with --method"


def unrolled(module: nn.Module, method: str) -> nn.Module:
    """A copy in which every use of a layer is a layer of its own, out of place, and tensors are added by modules.

    The weights are those of `module`, not copies: 392 MB of the study's CNN for each shard.
    Raises InputRefused where the network decides by its inputs what it does.
    """
    from torch import fx

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            """Torch's own layers, and those that say so."""
            return getattr(m, "indivisible", False) or super().is_leaf_module(m, module_qualified_name)

    weights = {id(t): t for t in (*module.parameters(), *module.buffers())}
    try:
        copied = copy.deepcopy(module, dict(weights))
        traced = fx.GraphModule(copied, Tracer().trace(copied))
    except Exception as error:  # whatever a network's own code raises when it meets fx's stand-ins
        raise InputRefused(
            f"{method}: the network cannot be unrolled into single layers ({str(error).splitlines()[0]}); {INSTEAD}"
        ) from error
    seen: set[str] = set()
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            if node.target in seen:
                fresh = f"{node.target.replace('.', '_')}_again{len(seen)}"
                traced.add_submodule(fresh, copy.deepcopy(traced.get_submodule(node.target), dict(weights)))
                node.target = fresh
            seen.add(node.target)
        elif (layer := _as_layer(node)) is not None:
            fresh = f"{type(layer).__name__.lower()}{len(seen)}"
            traced.add_submodule(fresh, layer)
            kept = node.args if node.target in _adds() else node.args[:1]
            node.op, node.target, node.args, node.kwargs = "call_module", fresh, kept, {}
            seen.add(fresh)
    traced.recompile()
    for part in traced.modules():
        if getattr(part, "inplace", False):
            part.inplace = False
    return traced.eval().requires_grad_(False)


def _adds() -> tuple[Any, ...]:
    import operator

    import torch

    return operator.add, operator.iadd, torch.add, "add", "add_"


def _as_layer(node: Any) -> nn.Module | None:
    # the layer that computes what this call of a function or method does, where the libraries have rules for one
    import torch
    from captum.attr._utils.custom_modules import Addition_Module
    from torch.nn import functional

    if node.target in _adds():
        return None if node.kwargs else Addition_Module()  # with `alpha` it is no plain sum
    if node.target in (torch.relu, torch.relu_, functional.relu, "relu", "relu_"):
        return torch.nn.ReLU()
    if node.target is functional.adaptive_avg_pool2d:
        return torch.nn.AdaptiveAvgPool2d(node.kwargs.get("output_size", node.args[-1]))
    return None


class CaptumHooks(PixelMethod):
    """A captum method on an unrolled copy of the float32 network, micro-batches of patches."""

    name: str

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Signed attributions (3, H, W).

        Raises InputRefused where the network cannot be unrolled.
        """
        unrolled(net.exact, self.name)
        return super().raw_specs(net, size)

    @abstractmethod
    def method(self, module: nn.Module) -> Any:
        """captum's object for an unrolled network."""

    @abstractmethod
    def call(self, method: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Its attributions (n, 3, H, W)."""

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """A patch is one row of a micro-batch."""
        from histoxai.explain.network import quiet_library

        module = unrolled(net.exact, self.name)
        method = self.method(module)

        def step(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            with quiet_library():
                return self.call(method, x.detach().clone(), targets).detach()

        images = net.ready(batch.images)
        work = ((i, _One(images[i], int(batch.targets[i]))) for i in range(len(batch)))
        yield from run_packed(net, step, work, images.shape[1:])

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, on the same copy, one patch alone."""
        import torch

        from histoxai.explain.network import quiet_library

        with quiet_library():
            method = self.method(unrolled(module, self.name))
            found = self.call(method, image[None].clone(), torch.tensor([target], device=image.device))
        return {"": found[0].detach().cpu().numpy()}


class _One(PatchInputs):
    """A patch as it is."""

    def __init__(self, image: torch.Tensor, target: int) -> None:
        super().__init__(1, target)
        self._image = image
        self._found = np.empty(0)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        out.copy_(self._image)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        self._found = found[0].float().cpu().numpy()

    def result(self) -> Map:
        return Map({"": self._found})
