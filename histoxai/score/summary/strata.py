"""Divide patches into strata: by class, and by the study's four cases of right and sure predictions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CASES = ("1", "2", "3", "4")


def cases(label: np.ndarray, prediction: np.ndarray, probability: np.ndarray, sure: float) -> np.ndarray:
    """Return the study's case of each patch, (n,) int64.

    1: right, probability >= sure; 2: right, below; 3: wrong, probability >= sure; 4: wrong, below; 0: no label (-1).
    """
    number = np.where(prediction == label, 1, 3) + np.where(probability >= sure, 0, 1)
    return np.where(label < 0, 0, number).astype(np.int64)


def strata(label: np.ndarray, case: np.ndarray, classes: list[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (class or "all", case or "all", members (n,) bool) for every class that has patches, and every case."""
    named = [(name, label == code) for code, name in enumerate(classes) if (label == code).any()]
    for name, members in [*named, ("all", np.ones(len(label), bool))]:
        yield name, "all", members
        for number in CASES:
            yield name, number, members & (case == int(number))
