"""Means with what stands behind them: how many patches, how many undefined, in which of the four cases."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CASES = ("1", "2", "3", "4")


def cases(label: np.ndarray, prediction: np.ndarray, probability: np.ndarray, sure: float) -> np.ndarray:
    """The study's four cases, as 1 to 4 (n,) int64.

    1: right, probability >= sure; 2: right, below; 3: wrong, probability >= sure; 4: wrong, below; 0: no label (-1).
    """
    right, certain = prediction == label, probability >= sure
    found = np.where(right, np.where(certain, 1, 2), np.where(certain, 3, 4))
    return np.where(label < 0, 0, found).astype(np.int64)


def strata(label: np.ndarray, case: np.ndarray, classes: list[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(class or "all", case or "all", rows (n,) bool) for every class that has patches, and every case."""
    named = [(name, label == code) for code, name in enumerate(classes)]
    for name, chosen in [*[(n, m) for n, m in named if m.any()], ("all", np.ones(len(label), bool))]:
        yield name, "all", chosen
        for number in CASES:
            yield name, number, chosen & (case == int(number))
