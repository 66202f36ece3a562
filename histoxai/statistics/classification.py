"""How good a classifier is: accuracy per class, confusion, AUROC, kappa, and calibration."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from scipy.special import softmax

from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import Estimate, means
from histoxai.statistics.numbers import or_none
from histoxai.statistics.ranks import Ranking

BINS = 15  # of the reliability curve (Guo et al. 2017, arXiv 1706.04599)


class ClassAccuracy(TypedDict):
    """Accuracy of one class (its recall) over its n patches; None where it has none."""

    n: int
    accuracy: float | None


class AccuracyTable(TypedDict):
    """Accuracy per class and over all patches, and the confusion matrix: rows true, columns predicted."""

    patches: int
    per_class: dict[str, ClassAccuracy]
    mean_class_accuracy: float | None
    accuracy: float | None
    confusion: list[list[int]]


class Share(TypedDict):
    """A share in 0..1 of n patches in so many groups, with the ends of its interval; None where not defined."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    groups: int


class ReliabilityBin(TypedDict):
    """Mean confidence and accuracy of the n patches whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


class _Patches(TypedDict):
    """Number of labelled patches."""

    patches: int


class ClassifierScores(_Patches, total=False):
    """How good a classifier is on some patches; all but `patches` are absent where there is no labelled patch.

    `kappa_quadratic` is over the `kappa_patches` patches that are graded and predicted as a grade.
    """

    accuracy: Share
    per_class: dict[str, Share]
    balanced_accuracy: float
    macro_auroc: float | None
    kappa_quadratic: float | None
    kappa_patches: int
    calibration_error: float
    reliability: list[ReliabilityBin]


def confusion(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Count patches (C, C) int64 by true class (rows) and predicted class (columns)."""
    from sklearn.metrics import confusion_matrix

    if not len(label):
        return np.zeros((classes, classes), np.int64)
    return np.asarray(confusion_matrix(label, prediction, labels=np.arange(classes)))


def accuracy_table(label: np.ndarray, prediction: np.ndarray, classes: list[str]) -> AccuracyTable:
    """Return accuracy per class (recall of the class), their mean, and over all patches; the study's table 4.

    label, prediction (n,) int. A class without patches has accuracy None and is left out of the mean.
    """
    table = confusion(label, prediction, len(classes))
    n, right = table.sum(axis=1), table.diagonal()
    per_class: dict[str, ClassAccuracy] = {
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
) -> ClassifierScores:
    """Return how good the classifier is on the explained patches, since its maps can be no better.

    logits (n, C); label (n,), -1 for none; group (n,) of any labels; grades: classes with an order, for kappa. AUROC is
    None with one class, kappa where no patch is graded and predicted as a grade.
    """
    known = label >= 0
    if not known.any():
        return {"patches": 0}
    logits, label, group = logits[known].astype(np.float64), label[known], group[known]
    probability, prediction = softmax(logits, axis=1), logits.argmax(axis=1)
    right = (prediction == label).astype(np.float64)
    columns = np.stack([right, *(np.where(label == c, right, np.nan) for c in range(len(classes)))], axis=1)
    found = means(columns, group, *statistics.bootstrap)
    per_class = [float(found.mean[1 + c]) for c in range(len(classes)) if found.n[1 + c]]
    confidence = probability[np.arange(len(label)), prediction]
    graded = np.isin(label, grades) & np.isin(prediction, grades)
    return {
        "patches": len(label),
        "accuracy": _share(found, 0),
        "per_class": {name: _share(found, 1 + c) for c, name in enumerate(classes)},
        "balanced_accuracy": float(np.mean(per_class)),
        "macro_auroc": macro_auroc(probability, label),
        "kappa_quadratic": quadratic_kappa(label[graded], prediction[graded], grades),
        "kappa_patches": int(graded.sum()),
        "calibration_error": calibration_error(confidence, right),
        "reliability": reliability(confidence, right),
    }


def _share(found: Estimate, k: int) -> Share:
    mean, low, high = (or_none(np.clip(ends[k], 0, 1)) for ends in (found.mean, found.low, found.high))
    return {"mean": mean, "low": low, "high": high, "n": int(found.n[k]), "groups": int(found.groups[k])}


def macro_auroc(probability: np.ndarray, label: np.ndarray) -> float | None:
    """Return the mean over classes of the AUROC of one class against the rest; None where no class has both.

    probability (n, C), label (n,). Equals scikit-learn's roc_auc_score per class to 1e-15. It is computed from integer
    counts, as for maps, so that recorded metrics keep every bit.
    """
    areas = [
        Ranking.of(probability[:, c]).against(label == c).auroc()
        for c in range(probability.shape[1])
        if 0 < (label == c).sum() < len(label)
    ]
    return float(np.mean(areas)) if areas else None


def quadratic_kappa(label: np.ndarray, prediction: np.ndarray, grades: list[int]) -> float | None:
    """Return Cohen's kappa of ordered grades, disagreement weighted by its square; None where chance never disagrees.

    label, prediction (n,): class numbers, all of them in `grades`. scikit-learn's cohen_kappa_score adds up the same
    terms in another order and differs in the last bits, which recorded metrics must keep.
    """
    if not len(label) or len(grades) < 2:
        return None
    order = sorted(grades)
    table = confusion(np.searchsorted(order, label), np.searchsorted(order, prediction), len(order)).astype(np.float64)
    steps = np.arange(len(order))
    weight = (steps[:, None] - steps[None, :]) ** 2.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chance = float((weight * expected).sum())
    return 1 - float((weight * table).sum()) / chance if chance else None


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[ReliabilityBin]:
    """Return mean confidence and accuracy of the patches in each of 15 equal bins (low, high] of confidence.

    confidence (n,) in 0..1; right (n,) 0 or 1: whether the prediction is the label.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [_reliability_bin(k, confidence[bins == k], right[bins == k]) for k in range(BINS)]


def _reliability_bin(k: int, confidence: np.ndarray, right: np.ndarray) -> ReliabilityBin:
    n = len(confidence)
    return {
        "low": k / BINS,
        "high": (k + 1) / BINS,
        "n": n,
        "confidence": float(confidence.mean()) if n else None,
        "accuracy": float(right.mean()) if n else None,
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: the mean over patches of |accuracy - confidence| of their bin."""
    rows = [r for r in reliability(confidence, right) if r["n"]]
    return sum(r["n"] * abs((r["accuracy"] or 0.0) - (r["confidence"] or 0.0)) for r in rows) / len(right)
