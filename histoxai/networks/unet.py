"""The study's U-Net for tumor and non-tumor nuclei, its losses and its metric."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """The study's U-Net: three contract and three expand blocks; skips are taken after the pooling and concatenated.

    Contract: conv, BN, ReLU, conv, BN, ReLU, max-pool 3x3 stride 2 padding 1 (channels w, 2w, 4w; the
    first block 7x7). Expand: conv, BN, ReLU, conv, BN, ReLU, transposed conv 3x3 stride 2 (channels 2w, w,
    2). Any patch size: sides are padded by reflection to multiples of 8 and cropped again.

    Source: Valatkaite 2024, after Ronneberger et al. 2015, arXiv 1505.04597.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.contract1 = _contract(3, width, 7)
        self.contract2 = _contract(width, 2 * width, 3)
        self.contract3 = _contract(2 * width, 4 * width, 3)
        self.expand3 = _expand(4 * width, 2 * width)
        self.expand2 = _expand(4 * width, width)
        self.expand1 = _expand(2 * width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 2, H, W), tumor and non-tumor nuclei, for (n, 3, H, W) float32 in 0..1."""
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="reflect")
        half = self.contract1(x)
        quarter = self.contract2(half)
        x = self.expand3(self.contract3(quarter))
        x = self.expand2(torch.cat([x, quarter], dim=1))
        x = self.expand1(torch.cat([x, half], dim=1))
        return x[..., :height, :width]


def _convs(channels_in: int, channels_out: int, kernel: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for first in (channels_in, channels_out):
        layers += [
            nn.Conv2d(first, channels_out, kernel, padding=kernel // 2),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return layers


def _contract(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(*_convs(channels_in, channels_out, kernel), nn.MaxPool2d(3, 2, padding=1))


def _expand(channels_in: int, channels_out: int) -> nn.Sequential:
    up = nn.ConvTranspose2d(channels_out, channels_out, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(*_convs(channels_in, channels_out, 3), up)


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, form: str = "plain") -> torch.Tensor:
    """Return the Dice loss over both planes flattened together, smoothing 1.

    logits, targets (n, 2, H, W), targets in {0, 1}. form "plain": 1 - (2 sum pt + 1) / (sum p + sum t + 1),
    the study's code; "squared": p and t squared in the denominator, its text (Milletari et al. 2016).
    """
    p, t = torch.sigmoid(logits).flatten(), targets.flatten()
    denominator = (p.square().sum() + t.square().sum()) if form == "squared" else (p.sum() + t.sum())
    return 1 - (2 * (p * t).sum() + 1) / (denominator + 1)


def bce_dice(logits: torch.Tensor, targets: torch.Tensor, form: str = "plain") -> torch.Tensor:
    """Return binary cross-entropy plus `dice_loss`, the study's loss."""
    dice = dice_loss(logits, targets, form)
    return functional.binary_cross_entropy_with_logits(logits, targets) + dice


def soft_iou(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return (sum pt + 1) / (sum p + sum t - sum pt + 1) over both planes flattened together, p probabilities."""
    p, t = torch.sigmoid(logits).flatten(), targets.flatten()
    both = (p * t).sum()
    return (both + 1) / (p.sum() + t.sum() - both + 1)
