"""Intervals that cover, tests that hold their level, conclusions that follow from what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, wilcoxon
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, roc_auc_score

from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import FEWEST, by_group, difference, means
from histoxai.statistics.classification import calibration_error, classifier_scores, quadratic_kappa, reliability
from histoxai.statistics.tests import friedman, holm, paired, rank_biserial


def clustered(rng: np.random.Generator, groups: int, columns: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Values of mean 0 with a random effect of each group and unequal group sizes."""
    group = np.repeat(np.arange(groups), rng.integers(2, 30, groups))
    effect = rng.normal(0, 0.1, (groups, columns))
    return effect[group] + rng.normal(0, 0.1, (len(group), columns)), group


def coverage(groups: int, trials: int, repetitions: int) -> float:
    rng = np.random.default_rng(groups)
    inside = 0
    for trial in range(trials):
        values, group = clustered(rng, groups)
        found = means(values, group, repetitions, trial)
        inside += bool(found.low[0] <= 0 <= found.high[0])
    return inside / trials


@pytest.mark.parametrize("groups", [10, 20, 50])
def test_intervals_cover(groups: int) -> None:
    assert 0.93 <= coverage(groups, 2000, 2000) <= 0.97


def test_means_are_over_patches_and_errors_over_groups() -> None:
    rng = np.random.default_rng(0)
    values, group = clustered(rng, 12, 3)
    values[rng.random(values.shape) < 0.2] = np.nan
    values[group == 4, 1] = np.nan
    found = means(values, group, 500, 0)
    np.testing.assert_allclose(found.mean, np.nanmean(values, axis=0), rtol=0, atol=1e-12)
    assert found.n.tolist() == np.isfinite(values).sum(axis=0).tolist()
    there = [len(set(group[np.isfinite(values[:, k])].tolist())) for k in range(3)]
    assert found.groups.tolist() == there
    assert there[1] < there[0] == 12
    shifted = means(values + 1e6, group, 500, 0)  # no digits are lost to a large mean
    np.testing.assert_allclose(shifted.low - 1e6, found.low, atol=1e-7)
    again = means(values[:, :1], group, 500, 0)  # columns do not depend on each other
    np.testing.assert_allclose([again.low[0], again.high[0], again.p[0]], [found.low[0], found.high[0], found.p[0]])
    order = rng.permutation(len(values))
    mixed = means(values[order], group[order], 500, 0)
    np.testing.assert_allclose(mixed.low, found.low, atol=1e-12)


def test_one_patch_a_group_is_a_students_interval_nearly() -> None:
    values = np.random.default_rng(1).normal(5, 2, (200, 1))
    found = means(values, np.arange(200), 4000, 0)
    half = 1.972 * values.std(ddof=1) / np.sqrt(200)
    assert (found.high[0] - found.low[0]) / 2 == pytest.approx(half, rel=0.05)


def test_too_few_groups_have_no_interval() -> None:
    values, group = clustered(np.random.default_rng(2), FEWEST - 1)
    found = means(values, group, 200, 0)
    assert np.isfinite(found.mean).all()
    assert np.isnan([found.low[0], found.high[0], found.p[0]]).all()


def test_values_that_all_agree_have_a_point_for_an_interval() -> None:
    group = np.repeat(np.arange(12), 3)
    found = means(np.stack([np.full(36, 0.7), np.zeros(36)], axis=1), group, 200, 0)
    assert found.low.tolist() == found.high.tolist() == [pytest.approx(0.7), 0]
    assert found.p[0] < 0.01
    assert found.p[1] == 1


def test_zeros_and_ones_have_an_interval_or_a_reason() -> None:
    """Draws whose groups all agree have no spread: they must neither blow the interval up nor be dropped."""
    rng = np.random.default_rng(9)
    shown = 0
    for trial in range(100):
        group = np.repeat(np.arange(12), rng.integers(2, 20, 12))
        values = (rng.random((len(group), 1)) < 0.95).astype(float)
        found = means(values, group, 400, trial)
        if np.isfinite(found.low[0]):
            shown += 1
            assert -0.5 < found.low[0] <= found.mean[0] <= found.high[0] < 1.5
        else:
            assert found.withheld(0) == "nearly all groups have the same value"
    assert 10 < shown < 100
    one = np.full(96, 0.3)
    group = np.repeat(np.arange(12), 8)
    one[group == 4] = 1
    found = means(one[:, None], group, 2000, 0)
    assert found.withheld(0) == "nearly all groups have the same value"
    assert np.isnan(found.low[0])
    assert found.withheld(0) is not None


@pytest.mark.parametrize("side", [1, -1])
def test_one_sided_p_of_skewed_groups(side: int) -> None:
    """Group means from a lognormal: the tail that skew helps is far too rare if two sides are taken as alike."""
    rng = np.random.default_rng(10)
    alarms = 0
    for trial in range(400):
        effect = side * (rng.lognormal(0, 1, 20) - np.exp(0.5))
        group = np.repeat(np.arange(20), 4)
        found = means((effect[group] + rng.normal(0, 0.1, 80))[:, None], group, 400, trial)
        alarms += bool(found.above[0] <= 0.05)
        assert (found.p[0] <= 0.045) <= bool(found.low[0] > 0 or found.high[0] < 0)
    assert alarms / 400 <= (0.08 if side > 0 else 0.15)


def test_p_is_uniform_where_nothing_is_there() -> None:
    rng = np.random.default_rng(3)
    ps = [means(*clustered(rng, 20), 400, k).p[0] for k in range(400)]
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.05)


def test_difference_of_two_sets_that_share_groups() -> None:
    rng = np.random.default_rng(4)
    inside = 0
    for trial in range(300):
        values, group = clustered(rng, 25)
        first = rng.random(len(group)) < 0.3
        values[first] += 0.5
        found = difference(values[:, 0], group, first, ~first, 400, trial, 0.95)
        inside += bool(found.low[0] <= 0.5 <= found.high[0])
        assert found.mean[0] == pytest.approx(values[first].mean() - values[~first].mean())
    assert inside / 300 == pytest.approx(0.95, abs=0.03)


def test_difference_within_one_group_has_no_interval() -> None:
    first = np.arange(6) < 3
    found = difference(np.arange(6.0), np.zeros(6), first, ~first, 100, 0, 0.95)
    assert found.mean[0] == -3
    assert np.isnan([found.low[0], found.high[0], found.p[0]]).all()


# ---- comparisons


def test_paired_equals_scipy_on_group_means() -> None:
    rng = np.random.default_rng(5)
    a, group = clustered(rng, 15)
    b = a - 0.02 + rng.normal(0, 0.05, a.shape)
    found = paired(a[:, 0], b[:, 0], group, 500, 0)
    sums, counts = by_group(a - b, group)
    each = (sums / counts)[:, 0]
    assert found.wilcoxon == pytest.approx(wilcoxon(each).pvalue)
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.n, found.groups) == (len(a), 15)
    assert found.low < found.mean < found.high


def test_rank_biserial_drawn_by_hand() -> None:
    assert rank_biserial(np.array([1.0, 2, 3])) == 1
    assert rank_biserial(np.array([1.0, -2, 3])) == pytest.approx((1 + 3 - 2) / 6)
    assert rank_biserial(np.array([0.0, 0])) == 0


def test_holm_drawn_by_hand() -> None:
    got = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(got, [0.03, 0.06, np.nan, 0.06, 0.02])
    assert holm(np.array([np.nan])).tolist() == pytest.approx([np.nan], nan_ok=True)
    assert len(holm(np.array([]))) == 0


def test_holm_holds_the_family_and_finds_what_is_planted() -> None:
    """Four methods that are one: at least one false alarm in 5 % of 300 studies; a real difference is found."""
    rng = np.random.default_rng(6)
    alarms = found = 0
    for trial in range(300):
        values, group = clustered(rng, 20, 4)
        ps = np.array([paired(values[:, a], values[:, b], group, 300, trial).p for a in range(4) for b in range(a)])
        alarms += bool((holm(ps) <= 0.05).any())
        values[:, 0] += 0.2
        ps = np.array([paired(values[:, 0], values[:, b], group, 300, trial).p for b in (1, 2, 3)])
        found += bool((holm(ps) <= 0.05).all())
    assert alarms / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    # differences of group effects have sd 0.14, so 0.2 over 20 groups is 6 standard errors
    assert found / 300 >= 0.95


def test_friedman_equals_scipy() -> None:
    rng = np.random.default_rng(7)
    values, group = clustered(rng, 12, 4)
    values[:, 2] += 1
    got = friedman(values, group)
    assert not isinstance(got, str)
    sums, counts = by_group(values, group)
    assert got.p == pytest.approx(friedmanchisquare(*(sums / counts).T).pvalue)
    assert got.ranks[2] == 1
    assert got.ranks.sum() == pytest.approx(10)
    assert got.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 12)), abs=2e-3)  # Demsar 2006, table 5
    assert all(2 not in clique for clique in got.cliques)
    assert friedman(values[:, :2], group) == "2 methods; it takes 3"
    few = friedman(values[group < 5], group[group < 5])
    assert few == "5 groups have a patch with a value of every method; it takes 10"


# ---- the classifier


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
