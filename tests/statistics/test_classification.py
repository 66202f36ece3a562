"""A classifier's scores and calibration against scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from histoxai.settings import Statistics
from histoxai.statistics.classification import (
    calibration_error,
    classifier_scores,
    macro_auroc,
    quadratic_kappa,
    reliability,
)


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


def test_auroc_is_the_share_of_pairs_in_order_and_leaves_out_absent_classes() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 60)  # classes 3 and 4 are absent from the split
    probability = np.round(rng.dirichlet(np.ones(5), 60) + 0.1 * np.eye(5)[label], 1)  # with ties
    areas = []
    for k in range(3):
        inside, outside = probability[label == k, k], probability[label != k, k]
        pairs = np.sign(inside[:, None] - outside[None, :]) / 2 + 0.5
        areas.append(pairs.mean())
    assert macro_auroc(probability, label) == pytest.approx(np.mean(areas), abs=1e-12)
    assert macro_auroc(probability, np.zeros(60, int)) is None
    assert macro_auroc(np.where(probability == 0, np.nan, probability), label) is None


def test_kappa_is_one_minus_disagreement_over_that_of_chance() -> None:
    rng = np.random.default_rng(2)
    label, prediction = rng.choice([2, 3, 4, 6], (2, 80))
    place = {2: 0, 3: 1, 4: 2, 5: 3, 6: 4}  # grade 5 is on no patch; the distance from 4 to 6 is still two steps
    a, b = (np.array([place[g] for g in values]) for values in (label, prediction))
    seen = ((a - b) ** 2.0).mean()
    chance = ((a[:, None] - b[None, :]) ** 2.0).mean()
    for grades in ([2, 3, 4, 5, 6], [6, 2, 5, 3, 4]):
        assert quadratic_kappa(label, prediction, grades) == pytest.approx(1 - seen / chance, abs=1e-12)
    assert quadratic_kappa(np.array([2, 2]), np.array([3, 3]), [2, 3]) == pytest.approx(0)


def test_the_reliability_curve_counts_every_patch_once() -> None:
    rng = np.random.default_rng(3)
    confidence, right = rng.uniform(0.2, 1, 500), rng.integers(0, 2, 500).astype(float)
    confidence[:3] = 1.0, 0.0, 0.5
    rows = reliability(confidence, right)
    assert len(rows) == 15
    assert sum(r["n"] for r in rows) == 500
    for k, row in enumerate(rows):
        low, high = k / 15, (k + 1) / 15
        inside = ((confidence > low) | (k == 0)) & (confidence <= high)
        assert (row["low"], row["high"], row["n"]) == (low, high, inside.sum())
        if inside.any():
            assert row["confidence"] == pytest.approx(confidence[inside].mean(), abs=1e-12)
            assert row["accuracy"] == pytest.approx(right[inside].mean(), abs=1e-12)
        else:
            assert row["confidence"] is row["accuracy"] is None
    for right in (np.ones(500), np.zeros(500)):
        assert calibration_error(confidence, right) == pytest.approx(abs(right - confidence).mean(), abs=1e-12)


def test_looking_and_help_do_not_import_scikit_learn(tmp_path: Path) -> None:
    code = (
        "import sys, histoxai.statistics.classification, histoxai.statistics.calibration, histoxai.stages.info\n"
        "from histoxai.cli.app import app\n"
        "sys.argv = ['histoxai', *sys.argv[1:]]\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "sys.exit('sklearn' in sys.modules)"
    )
    (tmp_path / "cls" / "last").mkdir(parents=True)
    for words in (["train-cls", "--help"], ["score", "--help"], ["info", str(tmp_path / "cls")]):
        result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
        assert result.returncode == 0, result.stderr


def test_calibration_drawn_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.5])
    right = np.array([1.0, 1, 1, 0, 1, 0])
    rows = {r["high"]: r for r in reliability(confidence, right) if r["n"]}
    assert rows[1.0]["accuracy"] == pytest.approx(0.75)
    assert len(rows) == 2
    assert calibration_error(confidence, right) == pytest.approx((4 * 0.2 + 2 * 0) / 6)
    assert quadratic_kappa(np.array([]), np.array([]), [1, 2]) is None
    assert quadratic_kappa(np.array([1, 1]), np.array([1, 1]), [1, 2]) is None
