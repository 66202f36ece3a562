"""The learning-rate range test: find the rate at which the loss falls fastest in one short run.

Source: Smith 2017, arXiv 1506.01186; smoothing and stopping rule as in fastai's finder.
"""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from histoxai.core import signals
from histoxai.core.progress import Progress
from histoxai.core.provenance import keyed_seed
from histoxai.settings import Training
from histoxai.train.batches import train_batches
from histoxai.train.loop import TrainingInputs
from histoxai.train.state import TrainState

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100
_MOMENTUM = 0.9  # of the smoothed loss
_DIVERGED = 4.0  # times the lowest smoothed loss


def find_learning_rate(
    inputs: TrainingInputs, settings: Training, fabric: Fabric, progress: Progress
) -> dict[str, Any]:
    """Train up to 100 steps with rates that grow geometrically from 1e-7 to 1; write nothing.

    Returns `suggestion`, the rate at which the smoothed loss falls fastest (None where it never falls), and `curve`:
    rate, loss and smoothed loss of each step.
    """
    state = TrainState(inputs.model, settings, fabric, progress)
    state.train()
    batches = train_batches(inputs.train, settings, 0)
    progress.start("looking for a learning rate", STEPS)
    curve: list[dict[str, float]] = []
    average, lowest = 0.0, math.inf
    for step, at in zip(range(STEPS), cycle(batches), strict=False):
        signals.check()
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        images, targets = next(inputs.train.batches([at], fabric.device))
        torch.manual_seed(keyed_seed(settings.seed, "rate", step, bits=63))
        loss = inputs.loss(state(images), targets)
        state.backward(loss)
        state.step(rate)
        average = _MOMENTUM * average + (1 - _MOMENTUM) * loss.item()
        smoothed = average / (1 - _MOMENTUM ** (step + 1))  # without the bias towards the initial 0
        if not math.isfinite(smoothed) or smoothed > _DIVERGED * lowest:
            break
        lowest = min(lowest, smoothed)
        curve.append({"lr": rate, "loss": loss.item(), "smoothed": smoothed})
        progress.advance(1, f"rate {rate:.1e}, loss {smoothed:.4f}")
    progress.stop()
    return {"suggestion": steepest_rate(curve), "curve": curve}


def steepest_rate(curve: list[dict[str, float]]) -> float | None:
    """Return the rate at which the smoothed loss falls fastest per decade of the rate; None where it never falls."""
    if len(curve) < 3:
        return None
    slope = np.gradient([c["smoothed"] for c in curve], np.log10([c["lr"] for c in curve]))
    steepest = int(np.argmin(slope))
    return float(curve[steepest]["lr"]) if slope[steepest] < 0 else None
