"""Scores summed up: means with what stands behind them, what chance gives, how methods differ, what may be concluded.

Arrays in, plain rows out; the CLI prints them and the report draws them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from histoxai.score.measures.base import DEGENERATE
from histoxai.score.summary.conclusions import conclude
from histoxai.score.summary.scores import Scores, cancer_of, primary_of
from histoxai.score.summary.strata import strata
from histoxai.score.summary.thresholds import map_thresholds, mask_thresholds
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import Estimate, by_group, means, of_ratio
from histoxai.statistics.classification import classifier_scores
from histoxai.statistics.numbers import or_nan, or_none
from histoxai.statistics.tests import friedman, holm, paired

SIZES = ("small", "medium", "large")
_MOST = 20_000  # repetitions


def summarise(s: Scores, statistics: Statistics, step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Everything that `score --json` says beside its schema. step: is called after each stratum.

    Raises UsageError for a primary measure or class that is not there.
    """
    statistics = settled(s, statistics)
    assert statistics.primary is not None
    primary, cancer = s.of(statistics.primary), cancer_of(statistics.cancer, s.classes)
    facts = asdict(statistics) | {"cancer": [s.classes[c] for c in cancer], "groups": len(set(s.group.tolist()))}
    return {
        "profile": s.profile,
        "patches": len(s.label),
        "partial": s.partial,
        "statistics": facts,
        "methods": {name: asdict(m) for name, m in s.methods.items()},
        "rows": means_of(s, statistics, step),
        "sizes": _by_size(s, statistics),
        "map_thresholds": map_thresholds(s, statistics.empty),
        "mask_thresholds": mask_thresholds(s, statistics.empty),
        "comparisons": _comparisons(s, primary, statistics),
        "best_null": _against_null(s, primary, statistics),
        "friedman": _friedman(s, primary, statistics),
        "conclusions": conclude(s, primary, cancer, statistics),
        "classifier": classifier_scores(s.logits, s.label, s.group, s.classes, cancer, statistics),
    }


def means_of(s: Scores, statistics: Statistics, step: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """`rows` of `summarise`: every method, mask, class, case and measure.

    Raises UsageError for a primary measure that is not there.
    """
    statistics = settled(s, statistics)
    assert statistics.primary is not None
    rows = []
    for name, number, mine in strata(s.label, s.case, s.classes):
        rows += _rows(s, statistics, {"class": name, "case": number}, mine)
        step()
    _correct(rows, statistics.primary)
    return rows


def settled(s: Scores, statistics: Statistics) -> Statistics:
    """With the primary measure named, and so many repetitions that the least p can stand Holm's correction.

    Repetitions other than the default are left as they are. Raises UsageError for a measure that is not there.
    """
    statistics = replace(statistics, primary=primary_of(statistics.primary, s.metrics, s.profile))
    methods = len(s.methods)
    return enough(statistics, len(s.masks) * max(methods, methods * (methods - 1) // 2))


def enough(statistics: Statistics, tests: int) -> Statistics:
    """With enough repetitions for a family of so many tests, unless their number was chosen."""
    if statistics.repetitions != Statistics.repetitions:
        return statistics
    needed = math.ceil(4 * tests / (1 - statistics.level))
    return replace(statistics, repetitions=min(_MOST, max(statistics.repetitions, needed)))


def patches(s: Scores) -> Iterator[dict[str, Any]]:
    """One row per patch, method, mask and metric, with the keys of the rows of `summarise`."""
    for n, patch_id in enumerate(s.patch_id):
        name = s.classes[s.label[n]] if s.label[n] >= 0 else None
        about = {"patch_id": str(patch_id), "group": str(s.group[n]), "class": name}
        for i, method in enumerate(s.methods):
            for j, mask in enumerate(s.masks):
                for k, metric in enumerate(s.metrics):
                    value = float(s.values[n, i, j, k])
                    yield {
                        "profile": s.profile,
                        **about,
                        "method": method,
                        "mask": mask,
                        "case": str(s.case[n]),
                        "metric": metric,
                        "mean": or_none(value),
                        "n": int(np.isfinite(value)),
                        "undefined": int(not np.isfinite(value)),
                        "chance": or_none(s.chance[n, i, j, k]),
                        "degenerate": {flag: int(bool(s.flags[n, i, j] & bit)) for flag, bit in DEGENERATE.items()},
                        "partial": s.partial is not None,
                    }


# ---- means


def _rows(s: Scores, statistics: Statistics, about: dict[str, str], mine: np.ndarray) -> list[dict[str, Any]]:
    shape = s.values.shape[1:]
    found, expected = _beside_chance(s, mine, statistics)
    low, high = _clipped(found, s, 2 * int(np.prod(shape[:-1])))
    patches_here = int(mine.sum())
    flagged = {name: ((s.flags[mine] & bit) > 0).sum(axis=0) for name, bit in DEGENERATE.items()}
    rows = []
    for flat, (i, j, k) in enumerate(np.ndindex(shape)):
        above, base = flat + int(np.prod(shape)), float(expected[i, j, k])
        rows.append(
            {
                "method": list(s.methods)[i],
                "mask": s.masks[j],
                **about,
                "metric": s.metrics[k],
                "mean": or_none(found.mean[flat]),
                "n": int(found.n[flat]),
                "undefined": patches_here - int(found.n[flat]),
                "partial": s.partial is not None,
                "low": or_none(low[flat]),
                "high": or_none(high[flat]),
                "groups": int(found.groups[flat]),
                "withheld": found.withheld(flat),
                "chance": or_none(base),
                # of the patches that have both, which under --empty are not all
                "lift": or_none((float(found.mean[above]) + base) / base) if base else None,
                "above_chance": {
                    "mean": or_none(found.mean[above]),
                    "low": or_none(found.low[above]),
                    "high": or_none(found.high[above]),
                    "p": or_none(found.p[above]),
                    "p_holm": None,
                },
                "degenerate": {name: int(count[i, j]) for name, count in flagged.items()},
            }
        )
    return rows


def _correct(rows: list[dict[str, Any]], primary: str) -> None:
    # Two families of every method and mask over all classes and cases: the primary measure, which was named before, and
    # all others together. In one, the least p of 2,000 repetitions times 200 tests would leave nothing to be found.
    everywhere = [r for r in rows if r["class"] == "all" and r["case"] == "all"]
    for first in (True, False):
        family = [r["above_chance"] for r in everywhere if (r["metric"] == primary) == first]
        for row, value in zip(family, holm(np.array([or_nan(r["p"]) for r in family])), strict=True):
            row["p_holm"] = or_none(value)


def _clipped(found: Estimate, s: Scores, times: int) -> tuple[np.ndarray, np.ndarray]:
    # an interval of a measure ends where the measure does
    bounds = [(-np.inf, np.inf) if m is None else (m.lowest, m.highest) for m in s.measures.values()]
    lowest, highest = (np.tile(ends, times) for ends in zip(*bounds, strict=True))
    return np.clip(found.low, lowest, highest), np.clip(found.high, lowest, highest)


def _beside_chance(s: Scores, mine: np.ndarray, statistics: Statistics) -> tuple[Estimate, np.ndarray]:
    # Means of all values and, after them, of what they are above chance; chance (M, K, Q) of those that have both.
    # One method at a time: patches are many, groups are few.
    group, columns = s.group[mine], int(np.prod(s.values.shape[1:]))
    if not len(group):
        return _nothing(2 * columns), np.full(s.values.shape[1:], np.nan)
    sums: tuple[list[np.ndarray], ...] = ([], [])
    counts: tuple[list[np.ndarray], ...] = ([], [])
    expected = np.empty(s.values.shape[1:])
    for i in range(s.values.shape[1]):
        values, by_chance = s.values[mine, i], s.chance[mine, i]
        both = np.isfinite(values) & np.isfinite(by_chance)
        for k, part in enumerate((values, np.where(both, values - by_chance, np.nan))):
            found = by_group(part.reshape(len(group), -1), group)
            sums[k].append(found[0])
            counts[k].append(found[1])
        with np.errstate(invalid="ignore"):
            expected[i] = np.where(both, by_chance, 0).sum(axis=0) / both.sum(axis=0)
    joined = [np.concatenate([*first, *second], axis=1) for first, second in (sums, counts)]
    how = (statistics.repetitions, statistics.seed, statistics.level)
    return of_ratio(joined[0], joined[1], *how), expected


def _nothing(columns: int) -> Estimate:
    nothing, none = np.full(columns, np.nan), np.zeros(columns, np.int64)
    return Estimate(nothing, nothing, nothing, nothing, nothing, none, none)


def _means(values: np.ndarray, group: np.ndarray, statistics: Statistics) -> Estimate:
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    if not len(flat):
        return _nothing(flat.shape[1])
    return means(flat, group, statistics.repetitions, statistics.seed, statistics.level)


def _by_size(s: Scores, statistics: Statistics) -> list[dict[str, Any]]:
    # means of every metric for small, medium and large masks: thirds of the patches whose mask is not empty
    area = s.counts[:, 0, :, 0] + s.counts[:, 0, :, 2]
    rows = []
    for j, mask in enumerate(s.masks):
        there = area[:, j] > 0
        if not there.any():
            continue
        ends = np.quantile(area[there, j], [1 / 3, 2 / 3])
        third = np.where(there, np.searchsorted(ends, area[:, j], side="left"), -1)
        for k, size in enumerate(SIZES):
            mine = third == k
            found = _means(s.values[mine][:, :, j], s.group[mine], statistics)
            low, high = _clipped(found, s, len(s.methods))
            both = np.isfinite(s.values[mine][:, :, j]) & np.isfinite(s.chance[mine][:, :, j])
            with np.errstate(invalid="ignore"):
                expected = np.where(both, s.chance[mine][:, :, j], 0).sum(axis=0) / both.sum(axis=0)
            for flat, (i, q) in enumerate(np.ndindex(len(s.methods), len(s.metrics))):
                rows.append(
                    {
                        "method": list(s.methods)[i],
                        "mask": mask,
                        "size": size,
                        "pixels": [int(area[mine, j].min()), int(area[mine, j].max())] if mine.any() else None,
                        "metric": s.metrics[q],
                        "mean": or_none(found.mean[flat]),
                        "n": int(found.n[flat]),
                        "low": or_none(low[flat]),
                        "high": or_none(high[flat]),
                        "groups": int(found.groups[flat]),
                        "withheld": found.withheld(flat),
                        "chance": or_none(expected[i, q]),
                    }
                )
    return rows


# ---- differences between methods


def _comparisons(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[dict[str, Any]]:
    # every pair of methods that are no null models, on every mask; one family
    names, real = list(s.methods), s.real()
    rows = [
        _pair(s, primary, j, a, b, statistics)
        for j in range(len(s.masks))
        for n, a in enumerate(real)
        for b in real[n + 1 :]
    ]
    return _corrected([{"a": names[a], "b": names[b], **row} for a, b, row in rows])


def _against_null(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[dict[str, Any]]:
    # every other method against the best of the null models, which is found on the same patches: that favours it
    names, real = list(s.methods), s.real()
    null = [i for i in range(len(names)) if i not in real]
    if not null:
        return []
    rows = []
    for j in range(len(s.masks)):
        known = [float(np.nanmean(v)) if np.isfinite(v := primary[:, i, j]).any() else -np.inf for i in null]
        best = null[int(np.argmax(known))]
        rows += [_pair(s, primary, j, a, best, statistics) for a in real]
    return _corrected([{"method": names[a], "null": names[b], **row} for a, b, row in rows])


def _pair(
    s: Scores, primary: np.ndarray, mask: int, a: int, b: int, statistics: Statistics
) -> tuple[int, int, dict[str, Any]]:
    found = paired(
        primary[:, a, mask], primary[:, b, mask], s.group, statistics.repetitions, statistics.seed, statistics.level
    )
    numbers = {k: v if isinstance(v, int) else or_none(v) for k, v in asdict(found).items()}
    return a, b, {"mask": s.masks[mask], "metric": statistics.primary, "difference": numbers.pop("mean"), **numbers}


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for key in ("p", "wilcoxon"):
        adjusted = holm(np.array([or_nan(r[key]) for r in rows]))
        for row, value in zip(rows, adjusted, strict=True):
            row[f"{key}_holm"] = or_none(value)
    return rows


def _friedman(s: Scores, primary: np.ndarray, statistics: Statistics) -> list[dict[str, Any]]:
    names = list(s.methods)
    rows = []
    for j, mask in enumerate(s.masks):
        found = friedman(primary[:, :, j], s.group, statistics.level)
        about: dict[str, Any] = {"mask": mask, "metric": statistics.primary}
        if isinstance(found, str):
            nothing: dict[str, Any] = {
                "p": None,
                "ranks": {},
                "critical_difference": None,
                "groups": None,
                "cliques": [],
            }
            rows.append({**about, **nothing, "withheld": found})
            continue
        rows.append(
            {
                **about,
                "p": found.p,
                "ranks": {n: float(r) for n, r in zip(names, found.ranks, strict=True)},
                "critical_difference": found.critical,
                "groups": found.blocks,
                "cliques": [[names[i] for i in clique] for clique in found.cliques],
                "withheld": None,
            }
        )
    return rows
