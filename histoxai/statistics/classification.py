"""How good the classifier is: accuracy per class and confusion."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.score.measures.ranking import Ranking
from histoxai.score.summary.strata import or_none
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import means

BINS = 15  # of the reliability curve (Guo et al. 2017, arXiv 1706.04599)


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


def classifier_scores(
    logits: np.ndarray,
    label: np.ndarray,
    group: np.ndarray,
    classes: list[str],
    grades: list[int],
    statistics: Statistics,
) -> dict[str, Any]:
    """How good the classifier is on the explained patches, since its maps can be no better.

    logits (n, C); label (n,), -1 for none; grades: classes with an order, for kappa. None where a measure has nothing
    to measure: AUROC with one class, kappa with no patch that is graded and predicted as a grade.
    """
    known = label >= 0
    logits, label, group = logits[known].astype(np.float64), label[known], group[known]
    if not len(label):
        return {"patches": 0}
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability = shifted / shifted.sum(axis=1, keepdims=True)
    prediction = logits.argmax(axis=1)
    right = (prediction == label).astype(np.float64)
    columns = np.stack([right, *(np.where(label == c, right, np.nan) for c in range(len(classes)))], axis=1)
    found = means(columns, group, statistics.repetitions, statistics.seed, statistics.level)

    def row(k: int) -> dict[str, Any]:
        ends = {end: or_none(np.clip(getattr(found, end)[k], 0, 1)) for end in ("mean", "low", "high")}
        return {**ends, "n": int(found.n[k]), "groups": int(found.groups[k])}

    per_class = [float(found.mean[1 + c]) for c in range(len(classes)) if found.n[1 + c]]
    confidence = probability[np.arange(len(label)), prediction]
    graded = np.isin(label, grades) & np.isin(prediction, grades)
    return {
        "patches": len(label),
        "accuracy": row(0),
        "per_class": {name: row(1 + c) for c, name in enumerate(classes)},
        "balanced_accuracy": float(np.mean(per_class)),
        "macro_auroc": macro_auroc(probability, label),
        "kappa_quadratic": quadratic_kappa(label[graded], prediction[graded], grades),
        "kappa_patches": int(graded.sum()),
        "calibration_error": calibration_error(confidence, right),
        "reliability": reliability(confidence, right),
    }


def macro_auroc(probability: np.ndarray, label: np.ndarray) -> float | None:
    """Mean over classes that have patches, and others beside them, of the AUROC of one class against the rest.

    probability (n, C), label (n,). scikit-learn's roc_auc_score per class, which ranks ties as half.
    """
    areas = [
        Ranking.of(probability[:, c]).against(label == c).auroc()
        for c in range(probability.shape[1])
        if 0 < (label == c).sum() < len(label)
    ]
    return float(np.mean(areas)) if areas else None


def quadratic_kappa(label: np.ndarray, prediction: np.ndarray, grades: list[int]) -> float | None:
    """Cohen's kappa of ordered grades, disagreement weighed by its square (scikit-learn's cohen_kappa_score)."""
    place = {g: k for k, g in enumerate(sorted(grades))}
    if not len(label):
        return None
    a, b = (np.array([place[int(v)] for v in values]) for values in (label, prediction))
    table = confusion(a, b, len(place)).astype(np.float64)
    steps = np.arange(len(place))
    weight = (steps[:, None] - steps[None, :]) ** 2.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chance = float((weight * expected).sum())
    return 1 - float((weight * table).sum()) / chance if chance else None


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Mean confidence and accuracy of the patches whose confidence lies in each of 15 equal bins (low, high]."""
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = []
    for k in range(BINS):
        mine = place == k
        rows.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "n": int(mine.sum()),
                "confidence": float(confidence[mine].mean()) if mine.any() else None,
                "accuracy": float(right[mine].mean()) if mine.any() else None,
            }
        )
    return rows


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: mean over patches of |accuracy - confidence| of their bin."""
    rows = [r for r in reliability(confidence, right) if r["n"]]
    return sum(r["n"] * abs(r["accuracy"] - r["confidence"]) for r in rows) / len(right)
