"""Learning-rate schedules as functions of what is behind: nothing to store, nothing that a resumed run could lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from histoxai.settings import Training

FACTOR = 0.5  # of the plateau schedule


class Rates:
    """The learning rates of an epoch's optimizer steps, of `per_epoch` in every epoch, after epochs with these losses.

    Linear to `lr` over `warmup` epochs, as torch's LinearLR from lr / n; then constant, along half a cosine to 0
    (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts; torch's CosineAnnealingLR), or halved each time
    that the validation loss has stayed for half the patience of early stopping (torch's ReduceLROnPlateau).
    """

    def __init__(self, settings: Training, per_epoch: int, losses: Sequence[float]) -> None:
        self._settings = settings
        self._warm = round(settings.warmup * per_epoch)
        self._total = settings.epochs * per_epoch
        self._steady = _after_plateaus(settings, losses) if settings.schedule == "plateau" else settings.lr

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from the first epoch's first."""
        if step < self._warm:
            return self._settings.lr * (step + 1) / self._warm
        if self._settings.schedule == "cosine":
            done = (step - self._warm) / max(1, self._total - self._warm)
            return self._settings.lr * (1 + math.cos(math.pi * done)) / 2
        return self._steady


def _after_plateaus(settings: Training, losses: Sequence[float]) -> float:
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=settings.lr)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=FACTOR, patience=settings.patience // 2, threshold=0.0
    )
    for loss in losses:
        plateau.step(loss)
    return float(optimizer.param_groups[0]["lr"])
