"""The learning-rate range test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from histoxai.core.progress import Silent
from histoxai.train.fabric import engine
from histoxai.train.lr_finder import find_rate, steepest
from histoxai.train.ranks import Placement
from tests.train.test_loop import job, settings


def test_a_learning_rate_is_found() -> None:
    with engine(settings(), Placement(), lambda: None) as fabric:
        found = find_rate(job(), settings(), fabric, Silent())
    rates = [c["lr"] for c in found["curve"]]
    assert rates[0] == pytest.approx(1e-7)
    assert rates == sorted(rates)
    assert 1e-4 < found["suggestion"] < 1
    # a loss that falls as a logistic function of log lr falls fastest at its middle
    grid = np.logspace(-7, 0, 100)
    curve = [{"lr": r, "smoothed": 2 - 1 / (1 + math.exp(-3 * (math.log10(r) + 3)))} for r in grid]
    assert steepest(curve) == pytest.approx(1e-3, rel=0.1)
    assert steepest([{"lr": r, "smoothed": float(k)} for k, r in enumerate(grid)]) is None
