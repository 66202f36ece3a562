"""Test each run against the first, patch by patch, on the patches that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import FEWEST, counted
from histoxai.statistics.numbers import or_none
from histoxai.statistics.tests import holm, paired
from histoxai.store.parents import join_rows


class DifferenceTest(TypedDict):
    """A mean paired difference with its interval and p-values, before and after Holm's correction.

    wilcoxon: p of Wilcoxon's test on the groups; effect: its rank-biserial correlation; withheld: why there is no p.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    wilcoxon: float | None
    wilcoxon_holm: float | None
    effect: float | None
    n: int
    groups: int
    withheld: str | None


class MethodDifference(DifferenceTest):
    """The test of one method on one mask: `run` less the first run; null: a null model in both."""

    run: str
    mask: str
    method: str
    null: bool


class AccuracyDifference(DifferenceTest):
    """The test of the classifiers: the share of patches that each run classifies as their label."""

    theirs: float
    first: float


class RunPair(TypedDict):
    """A run beside the first: common patches and groups, those of one run alone, deviating labels, and tests."""

    run: str
    patches: int
    groups: int
    only_first: int
    only_theirs: int
    other_class: int
    other_group: int
    rows: list[MethodDifference]
    accuracy: AccuracyDifference | None


@dataclass(frozen=True)
class _CommonPatches:
    """The m patches that two runs share: rows in each, and their joined groups (m,)."""

    first: Scores
    other: Scores
    first_rows: np.ndarray
    other_rows: np.ndarray
    group: np.ndarray

    def labelled(self) -> np.ndarray:
        """Whether each patch has a label in both runs."""
        return (self.first.label[self.first_rows] >= 0) & (self.other.label[self.other_rows] >= 0)

    def same_label(self) -> np.ndarray:
        """Whether each patch has the same label, by the name of its class, in both runs."""
        first = np.array(self.first.classes)[self.first.label[self.first_rows]]
        return self.labelled() & (first == np.array(self.other.classes)[self.other.label[self.other_rows]])


def _common_patches(first: Scores, other: Scores) -> _CommonPatches:
    joined = join_rows(other.patch_id, first.patch_id)
    other_rows, first_rows = np.flatnonzero(joined >= 0), joined[joined >= 0]
    group = join_groups(first.group[first_rows], other.group[other_rows])
    return _CommonPatches(first, other, first_rows, other_rows, group)


def compare_pair(first: Scores, other: Scores, run: str, statistics: Statistics) -> RunPair:
    """Test a run against the first, without correction of p; statistics: with the primary measure named."""
    common = _common_patches(first, other)
    labelled, same = common.labelled(), common.same_label()
    return {
        "run": run,
        "patches": len(common.group),
        "groups": len(set(common.group.tolist())),
        "only_first": len(first.label) - len(common.group),
        "only_theirs": len(other.label) - len(common.group),
        "other_class": int((labelled & ~same).sum()),
        "other_group": int((first.group[common.first_rows] != other.group[common.other_rows]).sum()),
        "rows": _method_differences(common, run, statistics) if len(common.group) else [],
        "accuracy": _accuracy_difference(common, same, statistics) if same.any() else None,
    }


def _method_differences(common: _CommonPatches, run: str, statistics: Statistics) -> list[MethodDifference]:
    assert statistics.primary is not None
    first, other = common.first, common.other
    first_values = first.of(statistics.primary)[common.first_rows]
    other_values = other.of(statistics.primary)[common.other_rows]
    rows: list[MethodDifference] = []
    for mask in (m for m in first.masks if m in other.masks):
        for method in (m for m in first.methods if m in other.methods):
            theirs = other_values[:, list(other.methods).index(method), other.masks.index(mask)]
            ours = first_values[:, list(first.methods).index(method), first.masks.index(mask)]
            null = first.methods[method].null and other.methods[method].null
            test = _test(theirs, ours, common.group, statistics)
            rows.append({"run": run, "mask": mask, "method": method, "null": null, **test})
    return rows


def _accuracy_difference(common: _CommonPatches, same: np.ndarray, statistics: Statistics) -> AccuracyDifference:
    # same (m,): patches with the same label in both runs
    first, theirs = (
        (scores.prediction == scores.label)[rows].astype(np.float64)[same]
        for scores, rows in ((common.first, common.first_rows), (common.other, common.other_rows))
    )
    test = _test(theirs, first, common.group[same], statistics)
    return {"theirs": float(theirs.mean()), "first": float(first.mean()), **test}


def join_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Join two groupings (n,): patches that share a group in either grouping share one in the result (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(first) or (first == second).all():
        return first
    a, b = (np.unique(g, return_inverse=True)[1] for g in (first, second))
    n = int(a.max()) + 1
    total = n + int(b.max()) + 1
    edges = coo_array((np.ones(len(a)), (a, n + b)), shape=(total, total))
    return np.asarray(connected_components(edges, directed=False)[1][a])


def _test(theirs: np.ndarray, first: np.ndarray, group: np.ndarray, statistics: Statistics) -> DifferenceTest:
    test = paired(theirs, first, group, *statistics.bootstrap)
    withheld = f"{counted(test.groups)}; a test needs {FEWEST}" if test.groups < FEWEST else None
    return {
        "difference": or_none(test.mean),
        "low": or_none(test.low),
        "high": or_none(test.high),
        "p": or_none(test.p),
        "p_holm": None,
        "wilcoxon": or_none(test.wilcoxon),
        "wilcoxon_holm": None,
        "effect": or_none(test.effect),
        "n": test.n,
        "groups": test.groups,
        "withheld": withheld,
    }


def correct_by_holm(rows: Sequence[DifferenceTest]) -> None:
    """Fill in `p_holm` and `wilcoxon_holm` of one family of tests."""
    p = holm(np.array([r["p"] for r in rows], float))
    wilcoxon = holm(np.array([r["wilcoxon"] for r in rows], float))
    for k, row in enumerate(rows):
        row["p_holm"], row["wilcoxon_holm"] = or_none(p[k]), or_none(wilcoxon[k])
