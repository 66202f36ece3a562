"""Tests of differences between methods, with corrections for the number of tests.

Methods are compared on the same patches. Rank tests take the mean difference of each group (slide or patient), because
patches of one slide are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.statistics.bootstrap import FEWEST, by_group, means


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over patches that have both, its interval, and p of the bootstrap and of Wilcoxon's test.

    effect: matched-pairs rank-biserial correlation of the groups' mean differences, -1..1 (Kerby 2014). All but mean, n
    and groups are NaN with fewer than ten groups.
    """

    mean: float
    low: float
    high: float
    p: float
    wilcoxon: float
    effect: float
    n: int
    groups: int


def paired(
    a: np.ndarray, b: np.ndarray, group: np.ndarray, repetitions: int, seed: int, level: float = 0.95
) -> Difference:
    """Test the difference of values a and b (n,) of the same patches; group (n,) of any labels."""
    differences = (a - b)[:, None]
    found = means(differences, group, repetitions, seed, level)
    sums, counts = (column[:, 0] for column in by_group(differences, group))
    group_means = sums[counts > 0] / counts[counts > 0]
    enough = len(group_means) >= FEWEST
    return Difference(
        mean=float(found.mean[0]),
        low=float(found.low[0]),
        high=float(found.high[0]),
        p=float(found.p[0]),
        wilcoxon=_wilcoxon(group_means) if enough else float("nan"),
        effect=rank_biserial(group_means) if enough else float("nan"),
        n=int(found.n[0]),
        groups=int(found.groups[0]),
    )


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def rank_biserial(differences: np.ndarray) -> float:
    """Return (ranks of positive - ranks of negative differences) / all ranks; zeros are left out, 0 if all are zero."""
    from scipy.stats import rankdata

    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 0.0
    ranks = rankdata(np.abs(nonzero))
    return float((ranks[nonzero > 0].sum() - ranks[nonzero < 0].sum()) / ranks.sum())


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p values (k,) for their number (Holm 1979); NaN stands for no test and stays NaN."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else steps
    return adjusted


@dataclass(frozen=True)
class Ranks:
    """Result of Friedman's test over groups: p, mean rank of each method (1 is best), Nemenyi's critical difference.

    blocks: number of groups. cliques: sets of column numbers whose ranks differ by at most the critical difference.
    """

    p: float
    ranks: np.ndarray
    critical: float
    blocks: int
    cliques: list[list[int]]


def friedman(values: np.ndarray, group: np.ndarray, level: float = 0.95) -> Ranks | str:
    """Rank the columns of values (n, methods), higher is better; return a text where they cannot be ranked.

    Each group is one block, with its means over the patches that have all methods (Demsar 2006).
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    whole = np.isfinite(values).all(axis=1)
    if values.shape[1] < 3:
        return f"{values.shape[1]} methods; it takes 3"
    if (n := len(np.unique(group[whole]))) < FEWEST:
        return f"{n} groups have a patch with a value of every method; it takes {FEWEST}"
    sums, counts = by_group(values[whole], group[whole])
    blocks = sums / counts
    n, k = blocks.shape
    each = np.apply_along_axis(rankdata, 1, -blocks)
    ranks = each.mean(axis=0)
    critical = float(studentized_range.ppf(level, k, np.inf)) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    p = 1.0 if (each == each[:, :1]).all() else float(friedmanchisquare(*blocks.T).pvalue)
    return Ranks(p, ranks, critical, n, _cliques(ranks, critical))


def _cliques(ranks: np.ndarray, critical: float) -> list[list[int]]:
    # maximal runs in the order of ranks whose ends differ by at most the critical difference
    order = np.argsort(ranks, kind="stable")
    found: list[list[int]] = []
    reached = 0
    for i in range(len(order)):
        j = max(j for j in range(i, len(order)) if ranks[order[j]] - ranks[order[i]] <= critical)
        if j > i and j + 1 > reached:
            found.append(order[i : j + 1].tolist())
        reached = max(reached, j + 1)
    return found
