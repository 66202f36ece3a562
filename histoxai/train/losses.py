"""Losses of classifiers: cross-entropy; of segmenters: a loss of pixels, a loss of overlap, or their sum.

Of classifiers logits (n, C), labels (n,); of segmenters logits, targets (n, 2, H, W), targets in {0, 1}. Each gives a
scalar, the mean over patches but for Dice, which takes a batch's pixels together.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.nn import functional

from histoxai.networks.unet import bce_dice, dice_loss
from histoxai.train.loop import Outcome

GAMMA = 2.0


def classification_loss(weights: torch.Tensor | None = None, smoothing: float = 0.0) -> Outcome:
    """Cross-entropy; weights (C,): of each patch's loss by its class; smoothing: of
    labels (Szegedy et al. 2016, arXiv 1512.00567).

    The mean is over patches, not over their weights as torch has it, so that a batch's loss is that of its parts.
    """
    if weights is None:
        return partial(functional.cross_entropy, label_smoothing=smoothing)
    return partial(_weighted, weights=weights, smoothing=smoothing)


def _weighted(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return (each * weights.to(logits.device)[labels]).mean()


def balanced_weights(label: np.ndarray, classes: int) -> torch.Tensor:
    """n / (classes x patches of the class), as scikit-learn's compute_class_weight; 0 for a class without patches."""
    counts = np.bincount(label, minlength=classes)
    there = counts > 0
    found = np.zeros(classes, np.float32)
    found[there] = len(label) / (there.sum() * counts[there])
    return torch.from_numpy(found)


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
