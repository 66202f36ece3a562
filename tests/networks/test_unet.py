"""The study's U-Net and its loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from histoxai.networks.unet import UNet, bce_dice, soft_iou


@pytest.mark.parametrize("size", [(64, 64), (70, 65)])
def test_unet_keeps_the_size_and_takes_skips_after_pooling(size: tuple[int, int]) -> None:
    model = UNet(8).eval()
    assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)
    assert model.expand2[0].in_channels == 4 * 8
    assert model.expand1[0].in_channels == 2 * 8
    assert model.contract1[0].kernel_size == (7, 7)
    assert isinstance(model.contract1[-1], nn.MaxPool2d)


@pytest.mark.parametrize("form", ["plain", "squared"])
def test_bce_dice_and_soft_iou_in_closed_form(form: str) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 2, 5, 5)), (rng.random((2, 2, 5, 5)) > 0.6) * 1.0
    p = 1 / (1 + np.exp(-logits))
    bce = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    below = (p**2).sum() + (targets**2).sum() if form == "squared" else p.sum() + targets.sum()
    dice = 1 - (2 * (p * targets).sum() + 1) / (below + 1)
    got = bce_dice(torch.tensor(logits), torch.tensor(targets), form)
    assert float(got) == pytest.approx(bce + dice, abs=1e-9)
    both = (p * targets).sum()
    iou = (both + 1) / (p.sum() + targets.sum() - both + 1)
    assert float(soft_iou(torch.tensor(logits), torch.tensor(targets))) == pytest.approx(iou, abs=1e-9)
