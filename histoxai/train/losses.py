"""Losses: cross-entropy for classifiers; a pixel loss, an overlap loss or their sum for segmenters.

Classifiers: logits (n, C), labels (n,). Segmenters: logits and targets (n, 2, H, W), targets in {0, 1}. Each loss is a
scalar and the mean over patches, except Dice, which pools the pixels of a batch.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.nn import functional

from histoxai.networks.unet import bce_dice, dice_loss
from histoxai.train.batches import BatchMetric

GAMMA = 2.0


def classification_loss(weights: torch.Tensor | None = None, smoothing: float = 0.0) -> BatchMetric:
    """Return the cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567).

    weights (C,): factor of each patch's loss by its class. The mean is over patches, not over their weights as in
    torch, so that accumulated passes give the loss of one large batch.
    """
    if weights is None:
        return partial(functional.cross_entropy, label_smoothing=smoothing)
    return partial(_weighted, weights=weights, smoothing=smoothing)


def _weighted(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, smoothing: float) -> torch.Tensor:
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return (losses * weights.to(logits.device)[labels]).mean()


def balanced_weights(label: np.ndarray, classes: int) -> torch.Tensor:
    """Return (C,) float32: n / (classes x patches of the class), 0 for a class without patches.

    As scikit-learn's compute_class_weight("balanced").
    """
    counts = np.bincount(label, minlength=classes)
    present = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[present] = len(label) / (present.sum() * counts[present])
    return torch.from_numpy(weights)


def focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float = GAMMA) -> torch.Tensor:
    """Return the mean over pixels of (1 - p)^gamma times the cross-entropy, p the probability of the true class.

    Source: Lin et al. 2017, arXiv 1708.02002, without its class weights.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()


def focal_dice(logits: torch.Tensor, targets: torch.Tensor, form: str = "plain", gamma: float = GAMMA) -> torch.Tensor:
    """Return focal plus Dice loss."""
    return focal(logits, targets, gamma) + dice_loss(logits, targets, form)


def segmentation_loss(name: str, form: str, gamma: float | None = None) -> BatchMetric:
    """Return the loss of a name; form: of Dice, plain or squared; gamma: of focal, None for its authors' 2."""
    gamma = GAMMA if gamma is None else gamma
    losses: dict[str, BatchMetric] = {
        "bce-dice": partial(bce_dice, form=form),
        "focal-dice": partial(focal_dice, form=form, gamma=gamma),
        "dice": partial(dice_loss, form=form),
        "focal": partial(focal, gamma=gamma),
        "bce": functional.binary_cross_entropy_with_logits,
    }
    return losses[name]
