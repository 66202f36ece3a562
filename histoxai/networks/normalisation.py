"""Normalisation as the first layer of a network, so that everybody outside of it goes on seeing 0..1.

Explainers attribute to the input of the whole network: were patches normalised before it, maps would speak of
standard deviations, and a black baseline would be no black patch.
"""

from __future__ import annotations

import torch
from torch import nn

# Mean and standard deviation of R, G, B in 0..1, as torchvision and timm normalise for their weights.
STATISTICS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
# What a network says of itself to those who look into it (networks/backbones.py), and whether it names a layer.
_SAID = {"gradcam_layer": True, "head_layer": True, "gradcam_grid": False, "gradcam_last": False}


class Normalise(nn.Module):
    """(x - mean) / standard deviation of each channel; constants of the recipe, not weights.

    `indivisible`: methods with a rule for each layer take it as one, like a batch normalisation.
    """

    indivisible = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in STATISTICS[kind])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) -> the same, in the dtype that it came in."""
        return (x - self.mean.to(x.dtype)) / self.deviation.to(x.dtype)


class Normalised(nn.Module):
    """A network behind a `Normalise`; its layers have the names that they had, behind `net.`."""

    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__()
        self.normalise, self.net = Normalise(kind), net
        for name, is_layer in _SAID.items():
            if hasattr(net, name):
                value = getattr(net, name)
                setattr(self, name, f"net.{value}" if is_layer else value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) float32 in 0..1 -> what the network makes of its normalised form."""
        return self.net(self.normalise(x))


def without_normalisation(model: nn.Module) -> nn.Module:
    """The network whose layers have their authors' names."""
    return model.net if isinstance(model, Normalised) else model
