"""Trace a network into its single steps, for methods that take a network apart."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from histoxai.core.errors import InputRefused

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

# Advice of messages about networks that cannot be taken apart.
INSTEAD = "use ig, saliency or gradcam with --method"


def traced(module: nn.Module, method: str, dtype: torch.dtype | None = None) -> fx.GraphModule:
    """Trace a copy of a network, in evaluation mode, in which torch's own layers are one step each.

    Weights are shared with `module`, not copied: those of the study's CNN take 392 MB. dtype: with converted weights
    instead. method: its name in messages. Raises InputRefused if the network's path depends on its inputs.
    """
    from torch import fx

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            """Whether a module is one step: torch's own layers, and modules marked `indivisible`."""
            return getattr(m, "indivisible", False) or super().is_leaf_module(m, module_qualified_name)

    try:
        copied = copied_around(module, weights_of(module, dtype)).eval()
        graph = fx.GraphModule(copied, Tracer().trace(copied))
    except Exception as error:  # whatever a network's own code raises when fx traces it
        raise InputRefused(
            f"{method}: the network cannot be unrolled into single layers ({str(error).splitlines()[0]}); {INSTEAD}"
        ) from error
    return graph.eval().requires_grad_(False)


def weights_of(module: nn.Module, dtype: torch.dtype | None = None) -> dict[int, torch.Tensor]:
    """Weights and buffers of a network by their `id`, converted to `dtype` where they are floating-point."""
    from torch import nn

    weights: dict[int, torch.Tensor] = {}
    for weight in (*module.parameters(), *module.buffers()):
        convert = dtype is not None and weight.is_floating_point()
        kept = weight.detach().to(dtype) if convert else weight
        is_parameter = isinstance(weight, nn.Parameter) and convert
        weights[id(weight)] = nn.Parameter(kept, requires_grad=False) if is_parameter else kept
    return weights


def copied_around(module: nn.Module, weights: dict[int, torch.Tensor]) -> nn.Module:
    """Copy a network, but take its weights from `weights` by their `id`."""
    return copy.deepcopy(module, dict(weights))
