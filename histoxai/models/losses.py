"""Losses of segmenters: a loss of pixels, a loss of overlap, or their sum.

logits, targets (n, 2, H, W), targets in {0, 1}; each gives a scalar.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from histoxai.models.fit import Outcome
from histoxai.models.unet import bce_dice, dice_loss

GAMMA = 2.0


def focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float = GAMMA) -> torch.Tensor:
    """The mean over pixels of (1 - p)^gamma times the cross-entropy, p the probability of what is true.

    Source: Lin et al. 2017, arXiv 1708.02002, without its balance of classes.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()


def focal_dice(logits: torch.Tensor, targets: torch.Tensor, form: str = "plain", gamma: float = GAMMA) -> torch.Tensor:
    """Focal plus Dice loss."""
    return focal(logits, targets, gamma) + dice_loss(logits, targets, form)


def segmentation_loss(name: str, form: str, gamma: float | None = None) -> Outcome:
    """The loss of a name; form: of Dice, plain or squared; gamma: of focal, None for its authors' 2."""
    gamma = GAMMA if gamma is None else gamma
    losses: dict[str, Outcome] = {
        "bce-dice": partial(bce_dice, form=form),
        "focal-dice": partial(focal_dice, form=form, gamma=gamma),
        "dice": partial(dice_loss, form=form),
        "focal": partial(focal, gamma=gamma),
        "bce": functional.binary_cross_entropy_with_logits,
    }
    return losses[name]
