"""How good the classifier is: accuracy per class and confusion."""

from __future__ import annotations

from typing import Any

import numpy as np


def confusion(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts (C, C) int64: rows true, columns predicted (scikit-learn's confusion_matrix)."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (label, prediction), 1)
    return table


def accuracy_table(label: np.ndarray, prediction: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Accuracy per class (recall of the class), their mean, and over all patches; the study's table 4.

    label, prediction (n,) int. A class without patches has accuracy None and is left out of the mean.
    """
    table = confusion(label, prediction, len(classes))
    n, right = table.sum(axis=1), table.diagonal()
    per_class = {
        c: {"n": int(k), "accuracy": float(r / k) if k else None} for c, k, r in zip(classes, n, right, strict=True)
    }
    known = [v["accuracy"] for v in per_class.values() if v["accuracy"] is not None]
    return {
        "patches": int(n.sum()),
        "per_class": per_class,
        "mean_class_accuracy": float(np.mean(known)) if known else None,
        "accuracy": float(right.sum() / n.sum()) if n.sum() else None,
        "confusion": table.tolist(),
    }
