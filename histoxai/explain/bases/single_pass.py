"""Base of methods that read one forward pass and one gradient, and share both.

The network runs once forward and once backward for all of them and the predictions together. If every method reads a
late layer, the backward pass ends there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from histoxai.explain.bases.method import Batch, Map, Method

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.layers import Layer
    from histoxai.explain.network import Network


class SinglePass(Method):
    """A function of one activation (or the input) and the target logit's gradient with respect to it."""

    # Whether `read` needs the gradient.
    needs_gradient: ClassVar[bool] = True

    def layer(self, body: nn.Module) -> Layer | None:
        """The layer whose output is read; None for the input."""
        del body
        return None

    def channels_first(self, body: nn.Module, values: torch.Tensor) -> torch.Tensor:
        """The layer's output, or its gradient, in the shape that `read` takes."""
        del body
        return values

    @abstractmethod
    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The method's own array (n, ...) float32, from the activation or input and its gradient (n, ...)."""

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Explain micro-batches of patches, the last one padded."""
        for part in run_single_pass(net, {"": self}, batch.images, batch.targets):
            for i, raw in enumerate(part.raw[""]):
                yield part.start + i, Map({"": raw})

    @classmethod
    def cost(cls, options: object) -> str:
        return "1 forward + backward, shared" if cls.needs_gradient else "1 forward, shared"


@dataclass(frozen=True)
class Part:
    """Results of one pass over r patches, of which the first is number `start`.

    logits: (r, classes). targets: (r,), the explained classes. raw: each method's own array (r, ...) by name.
    """

    start: int
    logits: np.ndarray
    targets: np.ndarray
    raw: dict[str, np.ndarray]


def run_single_pass(
    net: Network, methods: Mapping[str, SinglePass], images: torch.Tensor, targets: torch.Tensor | None
) -> Iterator[Part]:
    """Run (n, 3, H, W) patches once for all these methods; targets None: the predicted class of each."""
    import torch

    one_pass = _Pass(net, methods)
    for start in range(0, len(images), net.full_micro_batch):
        x = images[start : start + net.full_micro_batch]
        classes = torch.full((len(x),), -1) if targets is None else targets[start : start + net.full_micro_batch]
        real, short = len(x), net.full_micro_batch - len(x)
        if short:
            x = torch.cat([x, x[-1:].expand(short, -1, -1, -1)])
            classes = torch.cat([classes, classes[-1:].expand(short)])
        parts = net.run(one_pass.run, net.ready(x), classes.to(net.device))
        logits, explained = (np.concatenate([p[k] for p in parts])[:real] for k in (0, 1))
        raw = {name: np.concatenate([p[2][name] for p in parts])[:real] for name in methods}
        yield Part(start, logits, explained, raw)


class _Pass:
    """One forward and backward pass of a micro-batch for several methods."""

    def __init__(self, net: Network, methods: Mapping[str, SinglePass]) -> None:
        self._net, self._methods = net, methods
        self._layers = {name: method.layer(net.body) for name, method in methods.items()}
        with_gradient = [self._layers[name] for name, method in methods.items() if method.needs_gradient]
        self._with_gradient = list(dict.fromkeys(with_gradient))

    def run(self, x: torch.Tensor, targets: torch.Tensor) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Logits, explained classes and raw arrays; targets below 0: the predicted class."""
        from histoxai.explain.layers import Overwritten

        with suppress(Overwritten):
            return self._once(x, targets)
        self._net.overwrites = True
        return self._once(x, targets)

    def _once(self, x: torch.Tensor, targets: torch.Tensor) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        import torch

        from histoxai.explain.layers import captured
        from histoxai.explain.network import of_targets

        to_input = None in self._with_gradient
        with torch.set_grad_enabled(bool(self._with_gradient)):
            x = x.detach().requires_grad_(to_input)
            layers = [layer for layer in self._layers.values() if layer is not None]
            with captured(layers, cut=not to_input, clone=self._net.overwrites) as activations:
                logits = self._net.module(x)
            classes = torch.where(targets < 0, logits.argmax(dim=1), targets)
            values: dict[Layer | None, torch.Tensor] = {None: x, **activations}
            gradients: dict[Layer | None, torch.Tensor] = {}
            if self._with_gradient:
                score = of_targets(logits, classes).sum()
                inputs = [values[layer] for layer in self._with_gradient]
                gradients = dict(zip(self._with_gradient, torch.autograd.grad(score, inputs), strict=True))
        raw = self._read(values, gradients)
        return logits.detach().cpu().numpy(), classes.cpu().numpy(), raw  # waits: results of a whole micro-batch

    def _read(
        self, values: Mapping[Layer | None, torch.Tensor], gradients: Mapping[Layer | None, torch.Tensor]
    ) -> dict[str, np.ndarray]:
        raw = {}
        for name, method in self._methods.items():
            layer, body = self._layers[name], self._net.body
            gradient = method.channels_first(body, gradients[layer].float()) if method.needs_gradient else None
            raw[name] = method.read(method.channels_first(body, values[layer].detach().float()), gradient)
        return raw
