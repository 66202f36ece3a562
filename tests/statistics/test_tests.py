"""Paired tests, corrections and ranks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, wilcoxon

from histoxai.statistics.bootstrap import by_group
from histoxai.statistics.tests import friedman, holm, paired, rank_biserial
from tests.statistics.test_bootstrap import clustered


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
