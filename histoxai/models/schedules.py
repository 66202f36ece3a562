"""Learning-rate schedules as functions of what is behind: nothing to store, nothing that a resumed run could lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from histoxai.settings import Training

FACTOR = 0.5  # of the plateau schedule


def learning_rate(settings: Training, step: int, per_epoch: int, losses: Sequence[float]) -> float:
    """The rate of optimizer step `step` (from 0) of `per_epoch` steps an epoch, after epochs with these losses.

    Linear to `lr` over `warmup` epochs, as torch's LinearLR from lr / n; then constant, along half a cosine to 0
    (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts; torch's CosineAnnealingLR), or halved each time
    that the validation loss has stayed for half the patience of early stopping (torch's ReduceLROnPlateau).
    """
    warm, total = round(settings.warmup * per_epoch), settings.epochs * per_epoch
    if step < warm:
        return settings.lr * (step + 1) / warm
    if settings.schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))) / 2
    if settings.schedule == "plateau":
        return _after_plateaus(settings, losses)
    return settings.lr


def _after_plateaus(settings: Training, losses: Sequence[float]) -> float:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=settings.lr)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=FACTOR, patience=settings.patience // 2, threshold=0.0
    )
    for loss in losses:
        plateau.step(loss)
    return float(optimizer.param_groups[0]["lr"])
