"""How good a classifier is: accuracy per class, confusion, AUROC, kappa, and calibration."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from scipy.special import softmax

from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import Estimate, means
from histoxai.statistics.numbers import or_none

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

    if not len(label):  # which scikit-learn refuses
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
    """Return scikit-learn's roc_auc_score, the mean over classes of one class against the rest.

    probability (n, C), label (n,). A class of no patch, or of all, has no AUROC: it is left out of the mean, where
    scikit-learn would refuse. None where no class is left, or where a probability is not finite.
    """
    from sklearn.metrics import roc_auc_score

    truth = label[:, None] == np.arange(probability.shape[1])
    known = truth.any(axis=0) & ~truth.all(axis=0)
    if not known.any() or not np.isfinite(probability).all():
        return None
    return float(roc_auc_score(truth[:, known], probability[:, known], average="macro"))


def quadratic_kappa(label: np.ndarray, prediction: np.ndarray, grades: list[int]) -> float | None:
    """Return scikit-learn's cohen_kappa_score of ordered grades, disagreement weighted by its square.

    label, prediction (n,): class numbers, all of them in `grades`. None where all are the same grade, or there are
    none: chance never disagrees then, and kappa is 0/0.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(label, prediction)) < 2:
        return None
    return float(cohen_kappa_score(label, prediction, labels=sorted(grades), weights="quadratic"))


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[ReliabilityBin]:
    """Return mean confidence and accuracy of the patches in each of 15 equal bins (low, high] of confidence.

    confidence (n,) in 0..1; right (n,) 0 or 1: whether the prediction is the label. The means are those of
    scikit-learn's calibration_curve, which leaves out empty bins and does not tell how many patches the others have.
    """
    from sklearn.calibration import calibration_curve

    inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]  # as calibration_curve has them
    n = np.bincount(np.searchsorted(inner_edges, confidence), minlength=BINS)
    accuracy, mean = np.full((2, BINS), np.nan)
    accuracy[n > 0], mean[n > 0] = calibration_curve(right, confidence, n_bins=BINS)
    return [
        {"low": k / BINS, "high": (k + 1) / BINS, "n": int(n[k]), "confidence": or_none(c), "accuracy": or_none(a)}
        for k, (c, a) in enumerate(zip(mean, accuracy, strict=True))
    ]


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: the mean over patches of |accuracy - confidence| of their bin."""
    # scikit-learn has the curve and not this mean of it
    rows = [r for r in reliability(confidence, right) if r["n"]]
    return sum(r["n"] * abs((r["accuracy"] or 0.0) - (r["confidence"] or 0.0)) for r in rows) / len(right)
