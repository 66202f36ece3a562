"""The study's U-Nets for tumor and non-tumor nuclei, as coded and as drawn in its text; their losses and metric."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from histoxai.core.errors import InputRefused


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


class TextUNet(nn.Module):
    """The textbook U-Net, which the study's text describes: 2x2 pooling, 2x2 up-convolution, a final 1x1.

    Four contracting steps: conv 3x3, ReLU, conv 3x3, ReLU, max-pool 2x2 (channels w, 2w, 4w, 8w), and a block of 16w
    below them. Four expanding steps: up-convolution 2x2 that halves the channels, concatenated with the skip, which is
    taken before the pooling, then conv, ReLU, conv, ReLU. A conv 1x1 to 2 planes ends it. There is no BatchNorm.
    Convolutions are padded, so that masks have the patch's size; Ronneberger et al. crop instead.

    Any patch size from 16 px: sides are padded by reflection to multiples of 16 and cropped again.

    Source: Valatkaite 2024 (text), Ronneberger et al. 2015, arXiv 1505.04597.
    """

    STEPS = 4

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**step for step in range(self.STEPS + 1)]
        self.contract = nn.ModuleList(_plain_convs(a, b) for a, b in itertools.pairwise([3, *widths]))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
        self.expand = nn.ModuleList(_plain_convs(2 * w, w) for w in widths[-2::-1])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 2, H, W), tumor and non-tumor nuclei, for (n, 3, H, W) float32 in 0..1.

        Raises InputRefused where a side is too short to be mirrored.
        """
        height, width = x.shape[-2:]
        multiple = 2**self.STEPS
        if min(height, width) < multiple:
            raise InputRefused(
                f"thesis-unet-text takes patches of {multiple} px or more, not {width} x {height}; --arch unet takes "
                "them"
            )
        x = functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect")
        skips = []
        for block in list(self.contract)[:-1]:
            skips.append(block(x))
            x = self.pool(skips[-1])
        x = self.contract[-1](x)
        for up, block, skip in zip(self.up, self.expand, reversed(skips), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.head(x)[..., :height, :width]


def _plain_convs(channels_in: int, channels_out: int) -> nn.Sequential:
    layers = [
        layer
        for first in (channels_in, channels_out)
        for layer in (nn.Conv2d(first, channels_out, 3, padding=1), nn.ReLU())
    ]
    return nn.Sequential(*layers)


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
