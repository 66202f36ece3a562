"""Methods that read one forward pass and one gradient, and share both.

However many of them are asked for, and the predictions with them, the network runs once forward and once
backward. A method that needs only an activation of a late layer lets the backward pass end there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from histoxai.explain.bases.method import Batch, Method, Map

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


class SinglePass(Method):
    """A method that is a function of a value in the network and the target logit's gradient with respect to it."""

    # Whether the gradient is needed at all.
    gradient: ClassVar[bool] = True

    def layer(self, body: nn.Module) -> nn.Module | None:
        """Whose output is read; None for the input."""
        del body
        return None

    def arranged(self, body: nn.Module, values: torch.Tensor) -> torch.Tensor:
        """Values or gradients as `read` takes them."""
        del body
        return values

    @abstractmethod
    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """The method's own array (n, ...) float32 from value and gradient (n, ...)."""

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Micro-batches of patches, the last one padded."""
        for part in run_single_pass(net, {"": self}, batch.images, batch.targets):
            for i, raw in enumerate(part.raw[""]):
                yield part.start + i, Map({"": raw})

    @classmethod
    def passes(cls, options: object) -> str:
        """One pass, shared."""
        return "1 forward + backward, shared" if cls.gradient else "1 forward, shared"


@dataclass(frozen=True)
class Part:
    """What a pass of r patches gave: logits (r, classes), targets (r,), and each method's own array (r, ...)."""

    start: int
    logits: np.ndarray
    targets: np.ndarray
    raw: dict[str, np.ndarray]


def run_single_pass(
    net: Network, methods: Mapping[str, SinglePass], images: torch.Tensor, targets: torch.Tensor | None
) -> Iterator[Part]:
    """Run (n, 3, H, W) patches once for all these methods; targets None: the predicted class of each."""
    import torch

    from histoxai.explain.network import Overwritten

    layers = {name: method.layer(net.body) for name, method in methods.items()}
    for start in range(0, len(images), net.asked):
        x = images[start : start + net.asked]
        chosen = torch.full((len(x),), -1) if targets is None else targets[start : start + net.asked]
        real, short = len(x), net.asked - len(x)
        if short:
            x, chosen = torch.cat([x, x[-1:].expand(short, -1, -1, -1)]), torch.cat([chosen, chosen[-1:].expand(short)])

        def step(x: torch.Tensor, chosen: torch.Tensor) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
            with suppress(Overwritten):
                return _once(net, methods, layers, x, chosen)
            net.overwrites = True
            return _once(net, methods, layers, x, chosen)

        parts = net.run(step, net.ready(x), chosen.to(net.device))
        logits, found = (np.concatenate([p[k] for p in parts])[:real] for k in (0, 1))
        raw = {name: np.concatenate([p[2][name] for p in parts])[:real] for name in methods}
        yield Part(start, logits, found, raw)


def _once(
    net: Network,
    methods: Mapping[str, SinglePass],
    layers: Mapping[str, nn.Module | None],
    x: torch.Tensor,
    targets: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    import torch

    from histoxai.explain.network import captured, of_targets

    whole = any(layers[name] is None and method.gradient for name, method in methods.items())
    with torch.set_grad_enabled(any(method.gradient for method in methods.values())):
        x = x.detach().requires_grad_(whole)
        read = [layer for layer in layers.values() if layer is not None]
        with captured(read, cut=not whole, clone=net.overwrites) as values:
            logits = net.module(x)
        chosen = torch.where(targets < 0, logits.argmax(dim=1), targets)
        seen = {None: x, **values}
        wanted = [layers[name] for name, method in methods.items() if method.gradient]
        wanted = list(dict.fromkeys(wanted))
        gradients: dict[nn.Module | None, torch.Tensor] = {}
        if wanted:
            score = of_targets(logits, chosen).sum()
            gradients = dict(zip(wanted, torch.autograd.grad(score, [seen[w] for w in wanted]), strict=True))
    raw = {}
    for name, method in methods.items():
        layer = layers[name]
        gradient = method.arranged(net.body, gradients[layer].float()) if method.gradient else None
        raw[name] = method.read(method.arranged(net.body, seen[layer].detach().float()), gradient)
    return logits.detach().cpu().numpy(), chosen.cpu().numpy(), raw
