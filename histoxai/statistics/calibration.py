"""Temperature scaling: one number that calibrates a classifier's probabilities and changes no prediction."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from histoxai.statistics.classification import calibration_error

_BOUNDS = (0.01, 100.0)


def best_temperature(logits: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Find the T > 0 for which softmax(logits / T) makes the labels most likely (Guo et al. 2017, arXiv 1706.04599).

    logits (n, C), label (n,). Returns `temperature`, and expected calibration error and negative log-likelihood before
    and after on these patches. Where every prediction is right, T would go to 0; it ends at 0.01.
    """
    logits = logits.astype(np.float64)
    rows = np.arange(len(label))

    def unlikelihood(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[rows, label].mean())

    # convex in 1 / T, so with one minimum over log T as well
    found = minimize_scalar(unlikelihood, bounds=tuple(np.log(_BOUNDS)), method="bounded", options={"xatol": 1e-6})
    right = (logits.argmax(axis=1) == label).astype(np.float64)

    def error(log_t: float) -> float:
        return calibration_error(np.exp(log_softmax(logits / np.exp(log_t), axis=1)).max(axis=1), right)

    return {
        "temperature": float(np.exp(found.x)),
        "calibration_error_before": error(0.0),
        "calibration_error": error(found.x),
        "log_likelihood_before": -unlikelihood(0.0),
        "log_likelihood": -unlikelihood(found.x),
        "patches": len(label),
    }
