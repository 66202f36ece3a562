"""Temperature scaling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histoxai.statistics.calibration import best_temperature


def test_temperature_is_the_most_likely_one() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = np.array([rng.choice(3, p=row) for row in p])
    found = best_temperature(logits * 3.0, label)  # three times too sure
    assert found["temperature"] == pytest.approx(3.0, rel=0.06)
    assert found["calibration_error"] < 0.03 < found["calibration_error_before"]
    assert found["log_likelihood"] > found["log_likelihood_before"]
    grid = np.linspace(2, 4, 2001)
    best = max(
        grid,
        key=lambda t: float(
            np.mean(torch.log_softmax(torch.from_numpy(logits * 3 / t), 1).numpy()[range(4000), label])
        ),
    )
    assert found["temperature"] == pytest.approx(best, abs=2e-3)
