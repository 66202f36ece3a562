"""Learning-rate schedules against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, ReduceLROnPlateau

from histoxai.settings import Training
from histoxai.train.schedules import Rates


def test_schedules_are_torchs() -> None:
    weight = torch.zeros(1, requires_grad=True)

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.SGD([weight], lr=0.1)

    chosen = Training(epochs=10, lr=0.1, schedule="cosine", warmup=2.0)
    sgd = optimizer()
    warm = LinearLR(sgd, start_factor=1 / 8, end_factor=1, total_iters=7)
    for step in range(8):
        assert Rates(chosen, 4, [])(step) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        warm.step()
    sgd = optimizer()
    cosine = CosineAnnealingLR(sgd, T_max=32)
    for step in range(8, 40):
        assert Rates(chosen, 4, [])(step) == pytest.approx(sgd.param_groups[0]["lr"], abs=1e-12)
        sgd.step()
        cosine.step()
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.8, 0.85, 0.85, 0.85, 0.85, 0.7]
    sgd = optimizer()
    plateau = ReduceLROnPlateau(sgd, factor=0.5, patience=2, threshold=0.0)
    chosen = Training(epochs=50, lr=0.1, schedule="plateau", patience=5)
    rates = []
    for epoch, loss in enumerate(losses):
        rates.append(Rates(chosen, 4, losses[:epoch])(epoch * 4))
        assert rates[-1] == sgd.param_groups[0]["lr"]
        plateau.step(loss)
    assert sorted(set(rates)) == [0.025, 0.05, 0.1]
    assert Rates(Training(lr=0.1), 4, losses)(99) == 0.1
