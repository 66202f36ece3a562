"""The study's classifier."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from histoxai.core.errors import InputRefused
from histoxai.core.registry import RECIPE_VERSIONS

SMALLEST = 64  # px; for smaller patches the third pooling leaves less than 3 x 3


class ThesisCNN(nn.Module):
    """The study's CNN: three convolutions without padding, then seven linear layers (PROTOCOL, Models).

    conv 3->16 3x3, BatchNorm, ReLU, max-pool 3/2; conv 16->32 5x5, ReLU, max-pool 3/2; conv 32->64 5x5,
    ReLU, max-pool 3/2; linear 2048, ReLU, BatchNorm, ReLU, then 1024, 512, 256, 128, 64 with ReLU, then classes.
    The patch size decides the width of the first linear layer: 98 M weights at 256 px.

    Takes (n, 3, H, W) float32 in 0..1 and gives logits (n, classes). version: 1 leaves out the ReLU behind the
    BatchNorm of the linear layers, as histoxai first did. Source: Valatkaite 2024. Raises InputRefused for patches
    under 64 px, ValueError for an unknown version.
    """

    gradcam_layer = "conv3"
    head_layer = "head"

    def __init__(self, classes: int, size: tuple[int, int], version: int = RECIPE_VERSIONS["thesis-cnn"]) -> None:
        super().__init__()
        if version not in (1, 2):
            raise ValueError(f"thesis-cnn of version {version} is not known here; upgrade histoxai")
        if min(size) < SMALLEST:
            raise InputRefused(f"thesis-cnn takes patches of {SMALLEST} px or more, not {size[1]} x {size[0]}")
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.conv3 = nn.Conv2d(32, 64, 5)
        self.version = version
        self.pool = nn.MaxPool2d(3, 2)
        # Not in place: GradCAM reads conv3 before its ReLU, as the study does.
        self.relu = nn.ReLU()
        height, width = (_pooled(_pooled(_pooled(n - 2) - 4) - 4) for n in size)
        widths = [64 * height * width, 2048, 1024, 512, 256, 128, 64]
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norm_linear = nn.BatchNorm1d(2048)
        self.head = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) for (n, 3, H, W) float32 in 0..1."""
        x = self.pool(self.relu(self.norm1(self.conv1(x))))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.pool(self.relu(self.conv3(x)))
        x = self.norm_linear(self.relu(self.linear[0](x.flatten(1))))
        if self.version > 1:
            x = self.relu(x)
        for layer in list(self.linear)[1:]:
            x = self.relu(layer(x))
        return self.head(x)


def _pooled(n: int) -> int:
    return (n - 3) // 2 + 1
