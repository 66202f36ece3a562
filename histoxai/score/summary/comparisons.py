"""Differences between methods on the primary measure, and their ranks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from histoxai.score.results import Comparison, FriedmanRow, MethodComparison, NullComparison
from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics
from histoxai.statistics.numbers import or_nan, or_none
from histoxai.statistics.tests import friedman, holm, paired


def compare_methods(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[MethodComparison]:
    """Compare every pair of methods that are no null models, on every mask; Holm's correction is over all of them.

    primary (n, M, K): values of the primary measure, higher is better.
    """
    names, real = list(s.methods), s.real()
    rows: list[MethodComparison] = [
        {"a": names[a], "b": names[b], **_difference(s, primary[:, [a, b], j], s.masks[j], statistics)}  # type: ignore[typeddict-item]
        for j in range(len(s.masks))
        for n, a in enumerate(real)
        for b in real[n + 1 :]
    ]
    _correct(rows)
    return rows


def compare_with_null(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[NullComparison]:
    """Compare every other method with the best null model, which is chosen on the same patches: that favours it."""
    names, real = list(s.methods), s.real()
    null = [i for i in range(len(names)) if i not in real]
    rows: list[NullComparison] = []
    for j in range(len(s.masks) if null else 0):
        known = [float(np.nanmean(v)) if np.isfinite(v := primary[:, i, j]).any() else -np.inf for i in null]
        best = null[int(np.argmax(known))]
        for a in real:
            difference = _difference(s, primary[:, [a, best], j], s.masks[j], statistics)
            rows.append({"method": names[a], "null": names[best], **difference})  # type: ignore[typeddict-item]
    _correct(rows)
    return rows


def _difference(s: Scores, values: np.ndarray, mask: str, statistics: Statistics) -> dict[str, Any]:
    # a `Comparison` of values (n, 2), without corrected p
    found = asdict(paired(values[:, 0], values[:, 1], s.group, *statistics.bootstrap))
    numbers = {k: v if isinstance(v, int) else or_none(v) for k, v in found.items()}
    return {"mask": mask, "metric": statistics.primary, "difference": numbers.pop("mean"), **numbers}


def _correct(rows: list[MethodComparison] | list[NullComparison]) -> None:
    family: list[Comparison] = [*rows]
    for row, value in zip(family, holm(np.array([or_nan(r["p"]) for r in family])), strict=True):
        row["p_holm"] = or_none(value)
    for row, value in zip(family, holm(np.array([or_nan(r["wilcoxon"]) for r in family])), strict=True):
        row["wilcoxon_holm"] = or_none(value)


def rank_methods(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[FriedmanRow]:
    """Rank all methods on each mask by Friedman's test over groups; `withheld` says why they cannot be ranked."""
    return [_rank(s, primary[:, :, j], mask, statistics) for j, mask in enumerate(s.masks)]


def _rank(s: Scores, values: np.ndarray, mask: str, statistics: Statistics) -> FriedmanRow:
    names = list(s.methods)
    found = friedman(values, s.group, statistics.level)
    row: FriedmanRow = {
        "mask": mask,
        "metric": statistics.primary,
        "p": None,
        "ranks": {},
        "critical_difference": None,
        "groups": None,
        "cliques": [],
        "withheld": None,
    }
    if isinstance(found, str):
        row["withheld"] = found
        return row
    row["p"], row["critical_difference"], row["groups"] = found.p, found.critical, found.blocks
    row["ranks"] = {n: float(r) for n, r in zip(names, found.ranks, strict=True)}
    row["cliques"] = [[names[i] for i in clique] for clique in found.cliques]
    return row
