"""A classifier's scores and calibration against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from histoxai.settings import Statistics
from histoxai.statistics.classification import calibration_error, classifier_scores, quadratic_kappa, reliability


def test_classifier_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(0, 4, 300)
    logits = rng.normal(size=(300, 5)).astype(np.float32)
    logits[np.arange(300), label] += 1
    logits[:30] = logits[30:60]  # ties
    got = classifier_scores(logits, label, np.arange(300) % 20, list("abcde"), [1, 2, 3], Statistics(repetitions=200))
    predicted = logits.argmax(axis=1)
    probability = np.exp(logits.astype(float))
    probability /= probability.sum(axis=1, keepdims=True)
    assert got["accuracy"]["mean"] == pytest.approx((predicted == label).mean())
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted), abs=1e-9)
    expected = np.mean([roc_auc_score(label == k, probability[:, k]) for k in range(4)])
    assert got["macro_auroc"] == pytest.approx(expected, abs=1e-9)
    graded = np.isin(label, [1, 2, 3]) & np.isin(predicted, [1, 2, 3])
    kappa = cohen_kappa_score(label[graded], predicted[graded], weights="quadratic", labels=[1, 2, 3])
    assert got["kappa_quadratic"] == pytest.approx(kappa, abs=1e-9)
    assert got["kappa_patches"] == graded.sum()
    assert got["per_class"]["e"] == {"mean": None, "low": None, "high": None, "n": 0, "groups": 0}


def test_calibration_drawn_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.5])
    right = np.array([1.0, 1, 1, 0, 1, 0])
    rows = {r["high"]: r for r in reliability(confidence, right) if r["n"]}
    assert rows[1.0]["accuracy"] == pytest.approx(0.75)
    assert len(rows) == 2
    assert calibration_error(confidence, right) == pytest.approx((4 * 0.2 + 2 * 0) / 6)
    assert quadratic_kappa(np.array([]), np.array([]), [1, 2]) is None
    assert quadratic_kappa(np.array([1, 1]), np.array([1, 1]), [1, 2]) is None
