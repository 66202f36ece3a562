"""A learning rate from one short run in which it grows: the rate at which the loss falls fastest.

Source: Smith 2017, arXiv 1506.01186; smoothing and stop as in fastai's finder.
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
from histoxai.train.loop import Job, train_batches
from histoxai.train.state import Learner

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100
_MEMORY = 0.9  # of the smoothed loss
_LOST = 4.0  # times the best loss: it has gone astray


def find_rate(job: Job, settings: Training, fabric: Fabric, progress: Progress) -> dict[str, Any]:
    """Steps with rates from 1e-7 to 1, each a tenth-power more; nothing is written.

    Returns `suggestion`, the rate where the smoothed loss falls fastest (None where it never falls), and `curve`:
    rate, loss and smoothed loss of each step.
    """
    learner = Learner(job.model, settings, fabric, progress)
    learner.train()
    batches = train_batches(job.train, settings, 0)
    progress.start("looking for a learning rate", STEPS)
    curve: list[dict[str, float]] = []
    smooth, best = 0.0, math.inf
    for step, at in zip(range(STEPS), cycle(batches), strict=False):
        signals.check()
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        images, targets = next(job.train.batches([at], fabric.device))
        torch.manual_seed(keyed_seed(settings.seed, "rate", step, bits=63))
        loss = job.loss(learner(images), targets)
        learner.backward(loss)
        learner.step(rate)
        smooth = _MEMORY * smooth + (1 - _MEMORY) * loss.item()
        unbiased = smooth / (1 - _MEMORY ** (step + 1))
        if not math.isfinite(unbiased) or unbiased > _LOST * best:
            break
        best = min(best, unbiased)
        curve.append({"lr": rate, "loss": loss.item(), "smoothed": unbiased})
        progress.advance(1, f"rate {rate:.1e}, loss {unbiased:.4f}")
    progress.stop()
    return {"suggestion": steepest(curve), "curve": curve}


def steepest(curve: list[dict[str, float]]) -> float | None:
    """The rate at which the smoothed loss falls fastest over the logarithm of the rate; None where it never does."""
    if len(curve) < 3:
        return None
    slope = np.gradient([c["smoothed"] for c in curve], np.log10([c["lr"] for c in curve]))
    place = int(np.argmin(slope))
    return float(curve[place]["lr"]) if slope[place] < 0 else None
