"""Find layers of a network by name, and capture their outputs in a forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from histoxai.core.errors import InputRefused, UsageError


@dataclass(frozen=True)
class LayerUse:
    """A further use of a layer that the network runs several times in a pass; number: counted from 1."""

    module: nn.Module
    number: int


# A layer at its first use, or at another.
Layer: TypeAlias = nn.Module | LayerUse


def use_of(layer: Layer) -> LayerUse:
    """The module of a layer and the number of its use."""
    return layer if isinstance(layer, LayerUse) else LayerUse(layer, 1)


def find_layer(module: nn.Module, name: str, method: str = "gradcam") -> Layer:
    """Find a CAM's layer: `name`, else the network's `gradcam_layer`, else its last convolution.

    `relu:3` is the third use of the layer `relu` in a pass. Raises UsageError for a name that the network does not
    have, InputRefused if it has no convolution.
    """
    name = name or str(getattr(module, "gradcam_layer", ""))
    modules = dict(module.named_modules())
    convolutions = {n: m for n, m in modules.items() if isinstance(m, nn.Conv2d)}
    if name:
        own, colon, number = name.partition(":")
        if colon and own in modules and number.isdecimal() and int(number) >= 1:
            return modules[own] if int(number) == 1 else LayerUse(modules[own], int(number))
        if name not in modules:
            raise UsageError(f"-O {method}.layer={name}: no such layer; its convolutions: {', '.join(convolutions)}")
        return modules[name]
    if not convolutions:
        raise InputRefused(f"{method}: the network has no convolution; choose other methods with --method")
    return list(convolutions.values())[-1]


class Overwritten(Exception):
    """A layer's output was changed in place by a later layer."""


@contextmanager
def captured(layers: Sequence[Layer], cut: bool, clone: bool = True) -> Iterator[dict[Layer, torch.Tensor]]:
    """Capture each layer's output of the forward pass inside the context.

    cut: the autograd graph starts at the first of these layers, so that nothing before it is kept for a backward pass.
    clone: later layers get a copy, since they may overwrite it. Raises Overwritten if one does without `clone`.
    """
    outputs: dict[Layer, torch.Tensor] = {}
    versions: dict[Layer, int] = {}
    wanted = {use_of(layer): layer for layer in layers}
    uses: Counter[nn.Module] = Counter()

    def capture(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        uses[module] += 1
        layer = wanted.get(LayerUse(module, uses[module]))
        if layer is None:  # another use of it; where no number is given the first counts, as in pytorch-grad-cam
            return output
        if not isinstance(output, torch.Tensor):
            raise InputRefused(f"layer {type(module).__name__}: gives no single tensor; choose another")
        values = output.detach().requires_grad_() if cut and not outputs else output
        outputs[layer], versions[layer] = values, values._version
        return values.clone() if clone else values

    handles: list[RemovableHandle] = []
    try:
        handles += [layer.register_forward_hook(capture) for layer in dict.fromkeys(use.module for use in wanted)]
        yield outputs
        if any(outputs[layer]._version != version for layer, version in versions.items()):
            raise Overwritten
    except RuntimeError as error:
        if "in-place operation" in str(error):
            raise Overwritten from error
        raise
    finally:
        for handle in handles:
            handle.remove()
