"""Convert between numbers that may be NaN and values of strict JSON, which has no NaN."""

from __future__ import annotations

import numpy as np


def or_none(value: float) -> float | None:
    """Return a float, or None where it is not finite."""
    return float(value) if np.isfinite(value) else None


def or_nan(value: float | None) -> float:
    """Return a float, or NaN for None."""
    return float("nan") if value is None else value
