"""Normalise patches in the first layer of a network, so that its input stays in 0..1.

Explainers attribute to the input of the whole network. If patches were normalised before it, maps would be in units of
standard deviations, and a black baseline would not be a black patch.
"""

from __future__ import annotations

import torch
from torch import nn

# Mean and standard deviation of R, G, B in 0..1, as torchvision and timm normalise for their weights.
STATISTICS = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
# Attributes by which a network describes itself (networks/backbones.py), and whether each is the name of a layer.
_DESCRIPTION = {"gradcam_layer": True, "head_layer": True, "gradcam_grid": False, "gradcam_last": False}


class Normalise(nn.Module):
    """Compute (x - mean) / standard deviation of each channel, with constants of the recipe, not weights.

    `indivisible`: methods with a rule for each layer treat it as one layer, like a batch normalisation.
    """

    indivisible = True

    def __init__(self, kind: str) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in STATISTICS[kind])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (n, 3, H, W) in its own dtype."""
        return (x - self.mean.to(x.dtype)) / self.deviation.to(x.dtype)


class Normalised(nn.Module):
    """A network after a `Normalise`; the names of its layers get the prefix `net.`."""

    def __init__(self, net: nn.Module, kind: str) -> None:
        super().__init__()
        self.normalise, self.net = Normalise(kind), net
        for name, is_layer in _DESCRIPTION.items():
            if hasattr(net, name):
                value = getattr(net, name)
                setattr(self, name, f"net.{value}" if is_layer else value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output for (n, 3, H, W) float32 in 0..1."""
        return self.net(self.normalise(x))


def without_normalisation(model: nn.Module) -> nn.Module:
    """Return the network inside a `Normalised`, whose layers have their authors' names."""
    return model.net if isinstance(model, Normalised) else model
