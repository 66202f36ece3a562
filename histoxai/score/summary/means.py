"""Means of every measure: by class and case, and by the size of the mask, each with its interval and chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from histoxai.score.measures.base import DEGENERATE
from histoxai.score.results import AboveChance, MeanRow, SizeRow
from histoxai.score.summary.scores import Scores, with_primary
from histoxai.score.summary.strata import strata
from histoxai.settings import Statistics
from histoxai.statistics.bootstrap import Estimate, by_group, means, of_ratio
from histoxai.statistics.numbers import or_nan, or_none
from histoxai.statistics.tests import holm

SIZES = ("small", "medium", "large")


def means_of(s: Scores, statistics: Statistics, step: Callable[[], None] = lambda: None) -> list[MeanRow]:
    """Return a row for every method, mask, class, case and measure; step is called after each class and case.

    Raises UsageError for a primary measure that is not there.
    """
    statistics = with_primary(s, statistics)
    assert statistics.primary is not None
    rows: list[MeanRow] = []
    for name, number, members in strata(s.label, s.case, s.classes):
        stratum = _Stratum.of(s, statistics, name, number, members)
        rows += [stratum.row(flat, at) for flat, at in enumerate(np.ndindex(s.values.shape[1:]))]
        step()
    _correct(rows, statistics.primary)
    return rows


def _correct(rows: list[MeanRow], primary: str) -> None:
    # Two families of every method and mask over all classes and cases: the primary measure, which was named before, and
    # all others together. In one, the least p of 2,000 repetitions times 200 tests would leave nothing to be found.
    everywhere = [r for r in rows if r["class"] == "all" and r["case"] == "all"]
    for first in (True, False):
        family = [r["above_chance"] for r in everywhere if (r["metric"] == primary) == first]
        for row, value in zip(family, holm(np.array([or_nan(r["p"]) for r in family])), strict=True):
            row["p_holm"] = or_none(value)


@dataclass(frozen=True)
class _Stratum:
    """Means of the patches of one class and case.

    estimate: of the C = M K Q values and, after them, of what each is above chance. low, high (2 C,): its interval
    within the bounds of the measure. chance (M, K, Q): of the patches that have value and chance. flagged: how many
    patches have each flag (M, K).
    """

    scores: Scores
    name: str
    case: str
    patches: int
    estimate: Estimate
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray
    flagged: dict[str, np.ndarray]

    @classmethod
    def of(cls, s: Scores, statistics: Statistics, name: str, case: str, members: np.ndarray) -> _Stratum:
        estimate, chance = _beside_chance(s, members, statistics)
        low, high = _clipped(estimate, s, 2 * int(np.prod(s.values.shape[1:-1])))
        flagged = {flag: ((s.flags[members] & bit) > 0).sum(axis=0) for flag, bit in DEGENERATE.items()}
        return cls(s, name, case, int(members.sum()), estimate, low, high, chance, flagged)

    def row(self, flat: int, at: tuple[int, ...]) -> MeanRow:
        """Return the row of the value at (method, mask, metric), which is `flat` in the order of memory."""
        (i, j, k), s, found = at, self.scores, self.estimate
        return {
            "method": list(s.methods)[i],
            "mask": s.masks[j],
            "class": self.name,
            "case": self.case,
            "metric": s.metrics[k],
            "mean": or_none(found.mean[flat]),
            "n": int(found.n[flat]),
            "undefined": self.patches - int(found.n[flat]),
            "partial": s.partial is not None,
            "low": or_none(self.low[flat]),
            "high": or_none(self.high[flat]),
            "groups": int(found.groups[flat]),
            "withheld": found.withheld(flat),
            "chance": or_none(float(self.chance[at])),
            "lift": self._lift(flat, at),
            "above_chance": self._above(flat + self.chance.size),
            "degenerate": {flag: int(count[i, j]) for flag, count in self.flagged.items()},
        }

    def _lift(self, flat: int, at: tuple[int, ...]) -> float | None:
        # of the patches that have value and chance, which under --empty are not all
        base = float(self.chance[at])
        return or_none((float(self.estimate.mean[flat + self.chance.size]) + base) / base) if base else None

    def _above(self, column: int) -> AboveChance:
        found = self.estimate
        mean, low, high, p = (or_none(x[column]) for x in (found.mean, found.low, found.high, found.p))
        return {"mean": mean, "low": low, "high": high, "p": p, "p_holm": None}


def _clipped(found: Estimate, s: Scores, times: int) -> tuple[np.ndarray, np.ndarray]:
    # an interval of a measure ends where the measure does
    bounds = [(-np.inf, np.inf) if m is None else (m.lowest, m.highest) for m in s.measures.values()]
    lowest, highest = (np.tile(ends, times) for ends in zip(*bounds, strict=True))
    return np.clip(found.low, lowest, highest), np.clip(found.high, lowest, highest)


def _beside_chance(s: Scores, members: np.ndarray, statistics: Statistics) -> tuple[Estimate, np.ndarray]:
    # the estimate and chance of a stratum; one method at a time, since patches are many and groups are few
    group, columns = s.group[members], int(np.prod(s.values.shape[1:]))
    if not len(group):
        return _nothing(2 * columns), np.full(s.values.shape[1:], np.nan)
    values_by_group, differences_by_group, chance = [], [], np.empty(s.values.shape[1:])
    for i in range(s.values.shape[1]):
        values, by_chance = s.values[members, i], s.chance[members, i]
        both = np.isfinite(values) & np.isfinite(by_chance)
        difference = np.where(both, values - by_chance, np.nan)
        values_by_group.append(by_group(values.reshape(len(group), -1), group))
        differences_by_group.append(by_group(difference.reshape(len(group), -1), group))
        chance[i] = _mean_where(both, by_chance)
    sums, counts = zip(*values_by_group, *differences_by_group, strict=True)
    ratio = of_ratio(np.concatenate(sums, axis=1), np.concatenate(counts, axis=1), *statistics.bootstrap)
    return ratio, chance


def _mean_where(defined: np.ndarray, values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0)


def _nothing(columns: int) -> Estimate:
    nothing, none = np.full(columns, np.nan), np.zeros(columns, np.int64)
    return Estimate(nothing, nothing, nothing, nothing, nothing, none, none)


# ---- by the size of the mask


def means_by_size(s: Scores, statistics: Statistics) -> list[SizeRow]:
    """Return means of every metric for small, medium and large masks: thirds of the patches with a mask."""
    area = s.counts[:, 0, :, 0] + s.counts[:, 0, :, 2]
    rows: list[SizeRow] = []
    for j in range(len(s.masks)):
        present = area[:, j] > 0
        if not present.any():
            continue
        ends = np.quantile(area[present, j], [1 / 3, 2 / 3])
        third = np.where(present, np.searchsorted(ends, area[:, j], side="left"), -1)
        for k, size in enumerate(SIZES):
            rows += _size_rows(s, statistics, j, third == k, size)
    return rows


def _size_rows(s: Scores, statistics: Statistics, j: int, members: np.ndarray, size: str) -> list[SizeRow]:
    # j: which mask; members (n,) bool: patches whose mask is of this size
    values, by_chance, group = s.values[members][:, :, j], s.chance[members][:, :, j], s.group[members]
    area = (s.counts[:, 0, j, 0] + s.counts[:, 0, j, 2])[members]
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    found = means(columns, group, *statistics.bootstrap) if len(values) else _nothing(columns.shape[1])
    low, high = _clipped(found, s, len(s.methods))
    chance = _mean_where(np.isfinite(values) & np.isfinite(by_chance), by_chance)
    return [
        {
            "method": list(s.methods)[i],
            "mask": s.masks[j],
            "size": size,
            "pixels": [int(area.min()), int(area.max())] if len(area) else None,
            "metric": s.metrics[q],
            "mean": or_none(found.mean[flat]),
            "n": int(found.n[flat]),
            "low": or_none(low[flat]),
            "high": or_none(high[flat]),
            "groups": int(found.groups[flat]),
            "withheld": found.withheld(flat),
            "chance": or_none(float(chance[i, q])),
        }
        for flat, (i, q) in enumerate(np.ndindex(values.shape[1:]))
    ]
