"""Putting whole units (groups, families) into parts so that every class comes near its share of each part.

The cost is the sum over parts and classes of the squared difference between the share of the class that is there and
the share that should be; a part that lacks a class which it should have costs 10 more. Few units are tried in every
way; more start from several greedy orders, and the best of these are improved by moves and exchanges.
"""

from __future__ import annotations

import numpy as np

from histoxai.core.provenance import keyed_seed

MISSING = 10.0
EVERY_WAY = 20_000  # assignments that are tried in full
_IMPROVED = 12  # starts that are
_SWAPPED = 300  # units up to which exchanges are looked at
_DIGITS = 9  # what differs by less is the same on every machine


def assign_groups(counts: np.ndarray, targets: np.ndarray, names: np.ndarray, seed: int) -> np.ndarray:
    """The part (G,) int64 of each unit.

    counts (G, C): patches of each class; targets (P,): shares that add up to 1; names (G,): of the units, so that the
    same units get the same parts whatever their order.
    """
    keys = np.array([keyed_seed(seed, "split", name) for name in names])
    by_key = np.lexsort((names, keys))
    shares = counts[by_key] / np.maximum(counts.sum(axis=0), 1)
    problem = _Problem(shares, np.asarray(targets, np.float64))
    if len(targets) ** len(counts) <= EVERY_WAY:
        found = problem.every_way()
    else:
        found = min((problem.improved(start) for start in _starts(problem, seed)), key=problem.cost)
    chosen = np.empty(len(counts), np.int64)
    chosen[by_key] = found
    return chosen


def deviation(counts: np.ndarray, part: np.ndarray, targets: np.ndarray) -> float:
    """The cost of an assignment: part (G,) of counts (G, C)."""
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    return _Problem(shares, np.asarray(targets, np.float64)).cost(part)


class _Problem:
    def __init__(self, shares: np.ndarray, targets: np.ndarray) -> None:
        self.shares, self.targets = shares, targets
        self._there = shares.sum(axis=0) > 0

    def of_part(self, filled: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Cost (...) of parts that are filled (..., C)."""
        target = self.targets[part][..., None]
        lacks = (target > 0) & (filled < 1e-12) & self._there
        unwanted = (target == 0) & (filled > 1e-12)
        return np.asarray((((filled - target) ** 2) * self._there + MISSING * (lacks | unwanted)).sum(axis=-1))

    def filled(self, part: np.ndarray) -> np.ndarray:
        made = np.zeros((len(self.targets), self.shares.shape[1]))
        np.add.at(made, part, self.shares)
        return made

    def cost(self, part: np.ndarray) -> float:
        return round(float(self.of_part(self.filled(part), np.arange(len(self.targets))).sum()), _DIGITS)

    def every_way(self) -> np.ndarray:
        n, parts = len(self.shares), len(self.targets)
        ways = np.stack(np.unravel_index(np.arange(parts**n), (parts,) * n), axis=1)
        cost = np.zeros(len(ways))
        for p in range(parts):
            cost += self.of_part((ways == p) @ self.shares, np.full(len(ways), p))
        return ways[int(np.argmin(cost.round(_DIGITS)))]

    def greedy(self, order: np.ndarray) -> np.ndarray:
        filled, part = np.zeros((len(self.targets), self.shares.shape[1])), np.zeros(len(self.shares), np.int64)
        every = np.arange(len(self.targets))
        for g in order:
            gain = self.of_part(filled + self.shares[g], every) - self.of_part(filled, every)
            part[g] = int(np.argmin(gain.round(_DIGITS)))
            filled[part[g]] += self.shares[g]
        return part

    def improved(self, part: np.ndarray) -> np.ndarray:
        """The best move of a unit or exchange of two, again and again until none helps."""
        part, now = part.copy(), self.cost(part)
        if len(part) > _SWAPPED:
            return part
        for _ in range(4 * len(part)):
            better = part.copy()
            for units, places in (self._move(part), self._exchange(part)):
                tried = part.copy()
                tried[units] = places
                if self.cost(tried) < self.cost(better):
                    better = tried
            if self.cost(better) >= now:
                break
            part, now = better, self.cost(better)
        return part

    def _move(self, part: np.ndarray) -> tuple[list[int], list[int]]:
        filled, every = self.filled(part), np.arange(len(self.targets))
        old = self.of_part(filled, every)
        left = self.of_part(filled[part] - self.shares, part) - old[part]
        joined = self.of_part(filled[None] + self.shares[:, None], every[None]) - old
        change = left[:, None] + joined
        change[np.arange(len(part)), part] = np.inf
        g, p = np.unravel_index(int(np.argmin(change.round(_DIGITS))), change.shape)
        return [int(g)], [int(p)]

    def _exchange(self, part: np.ndarray) -> tuple[list[int], list[int]]:
        filled = self.filled(part)
        old = self.of_part(filled, np.arange(len(self.targets)))
        difference = self.shares[None] - self.shares[:, None]  # what the first one's part gains
        change = self.of_part(filled[part][:, None] + difference, part[:, None])
        change = change - old[part][:, None]
        change = change + change.T
        change[part[:, None] == part[None]] = np.inf
        a, b = np.unravel_index(int(np.argmin(change.round(_DIGITS))), change.shape)
        return [int(a), int(b)], [int(part[b]), int(part[a])]


def _starts(problem: _Problem, seed: int) -> list[np.ndarray]:
    # greedy from large units to small, jittered so that the attempts differ; the best are worth improving
    weight = problem.shares.sum(axis=1)
    made = []
    for attempt in range(int(np.clip(20_000 // len(weight), 1, 64))):
        jitter = np.array([keyed_seed(seed, "attempt", attempt, g) for g in range(len(weight))]) / 2**32
        order = np.argsort(-(weight * (1 + jitter)).round(_DIGITS), kind="stable")
        made.append(problem.greedy(order))
    different = {start.tobytes(): start for start in made}
    return sorted(different.values(), key=problem.cost)[:_IMPROVED]
