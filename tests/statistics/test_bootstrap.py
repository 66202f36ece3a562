"""Cluster-bootstrap intervals: they cover, and are withheld where they would not."""

from __future__ import annotations

import numpy as np
import pytest

from histoxai.statistics.bootstrap import FEWEST, any_below, difference, means


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
        found = difference(values[:, 0], group, (first, ~first), 400, trial, 0.95)
        inside += bool(found.low[0] <= 0.5 <= found.high[0])
        assert found.mean[0] == pytest.approx(values[first].mean() - values[~first].mean())
    assert inside / 300 == pytest.approx(0.95, abs=0.03)


def test_difference_within_one_group_has_no_interval() -> None:
    first = np.arange(6) < 3
    found = difference(np.arange(6.0), np.zeros(6), (first, ~first), 100, 0, 0.95)
    assert found.mean[0] == -3
    assert np.isnan([found.low[0], found.high[0], found.p[0]]).all()


def test_any_column_below_0() -> None:
    """Of one column it is the one-sided p; of several it errs in 5 % of cases, and one of them is enough."""
    rng = np.random.default_rng(3)
    values, group = clustered(rng, 20, 4)
    alone = means(values[:, :1], group, 500, 0)
    assert any_below(values[:, :1], group, 500, 0) == pytest.approx(float(alone.below[0]))
    errors = sum(any_below(*clustered(rng, 20, 4), 400, trial) <= 0.05 for trial in range(400))
    assert abs(errors / 400 - 0.05) <= 3 * np.sqrt(0.05 * 0.95 / 400)
    assert any_below(values + 1.0, group, 500, 0) == pytest.approx(1.0)
    values[:, 2] -= 1.0
    assert any_below(values, group, 500, 0) == pytest.approx(1 / 501)
    values[:, 2] = -1e-3  # every group has this mean
    assert any_below(values, group, 500, 0) == pytest.approx(1 / 501)
    assert any_below(np.zeros((len(group), 3)), group, 500, 0) == 1.0
    values[group > 5, 1] = np.nan  # a column of six groups
    assert np.isnan(any_below(values, group, 500, 0))
