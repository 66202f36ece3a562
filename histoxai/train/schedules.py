"""Compute learning-rate schedules from the epochs so far: they have no state that a resumed run could lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from histoxai.settings import Training

FACTOR = 0.5  # of the plateau schedule


class LearningRates:
    """The learning rate of every optimizer step of an epoch.

    The rate rises linearly to `lr` over `warmup` epochs, as torch's LinearLR from lr / n. Then it is constant; or falls
    along half a cosine to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts; torch's
    CosineAnnealingLR); or is halved whenever the validation loss has not fallen for half the patience of early stopping
    (torch's ReduceLROnPlateau).
    """

    def __init__(self, settings: Training, steps_per_epoch: int, validation_losses: Sequence[float]) -> None:
        self._settings = settings
        self._warmup = round(settings.warmup * steps_per_epoch)
        self._total = settings.most_epochs * steps_per_epoch
        plateau = settings.schedule == "plateau"
        self._rate = _after_plateaus(settings, validation_losses) if plateau else settings.lr

    def __call__(self, step: int) -> float:
        """Return the rate of a step; steps count from 0 at the start of the first epoch."""
        if step < self._warmup:
            return self._settings.lr * (step + 1) / self._warmup
        if self._settings.schedule == "cosine":
            done = (step - self._warmup) / max(1, self._total - self._warmup)
            return self._settings.lr * (1 + math.cos(math.pi * done)) / 2
        return self._rate


def _after_plateaus(settings: Training, validation_losses: Sequence[float]) -> float:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=settings.lr)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=FACTOR, patience=settings.patience // 2, threshold=0.0
    )
    for loss in validation_losses:
        plateau.step(loss)
    return float(optimizer.param_groups[0]["lr"])
