"""Assign whole groups of patches to parts, so that every class comes near its share of each part.

The cost is the sum over parts and classes of the squared difference between the share of the class in the part and the
share that it should have. A part that lacks a class that it should have costs 10 more. For few groups every assignment
is tried. For more, greedy assignments from several orders are improved by moves and exchanges, and the best one is
taken.
"""

from __future__ import annotations

import numpy as np

from histoxai.core.provenance import keyed_seed

MISSING = 10.0  # cost of a class that a part lacks
EVERY_WAY = 20_000  # assignments up to which all are tried
_IMPROVED = 12  # greedy assignments that are improved
_EXCHANGED = 300  # groups up to which moves and exchanges are tried
_DIGITS = 9  # costs are rounded, so that the last bits decide nothing and every machine gives the same result


def assign_groups(counts: np.ndarray, targets: np.ndarray, names: np.ndarray, seed: int) -> np.ndarray:
    """Return the part (G,) int64 of each group.

    counts (G, C): patches of each class. targets (P,): share of each part, with sum 1. names (G,): of the groups, so
    that the same groups get the same parts whatever their order.
    """
    keys = np.array([keyed_seed(seed, "split", name) for name in names])
    by_key = np.lexsort((names, keys))
    shares = counts[by_key] / np.maximum(counts.sum(axis=0), 1)
    problem = _Problem(shares, np.asarray(targets, np.float64))
    if len(targets) ** len(counts) <= EVERY_WAY:
        best = problem.try_all()
    else:
        best = min((problem.improve(start) for start in _greedy_starts(problem, seed)), key=problem.cost)
    part = np.empty(len(counts), np.int64)
    part[by_key] = best
    return part


def deviation(counts: np.ndarray, part: np.ndarray, targets: np.ndarray) -> float:
    """Return the cost of an assignment: part (G,) of counts (G, C)."""
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    return _Problem(shares, np.asarray(targets, np.float64)).cost(part)


class _Problem:
    """Assignments of groups to parts, and their cost. shares (G, C): of each class in each group; targets (P,)."""

    def __init__(self, shares: np.ndarray, targets: np.ndarray) -> None:
        self.shares, self.targets = shares, targets
        self._exists = shares.sum(axis=0) > 0  # classes with any patch

    def part_cost(self, filled: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Return the cost (...) of parts (...) that are filled with these shares of the classes (..., C)."""
        target = self.targets[part][..., None]
        lacks = (target > 0) & (filled < 1e-12) & self._exists
        unwanted = (target == 0) & (filled > 1e-12)
        return np.asarray((((filled - target) ** 2) * self._exists + MISSING * (lacks | unwanted)).sum(axis=-1))

    def filled(self, part: np.ndarray) -> np.ndarray:
        """Return the share (P, C) of each class in each part."""
        filled = np.zeros((len(self.targets), self.shares.shape[1]))
        np.add.at(filled, part, self.shares)
        return filled

    def cost(self, part: np.ndarray) -> float:
        return round(float(self.part_cost(self.filled(part), np.arange(len(self.targets))).sum()), _DIGITS)

    def try_all(self) -> np.ndarray:
        n, parts = len(self.shares), len(self.targets)
        assignments = np.stack(np.unravel_index(np.arange(parts**n), (parts,) * n), axis=1)
        cost = np.zeros(len(assignments))
        for p in range(parts):
            cost += self.part_cost((assignments == p) @ self.shares, np.full(len(assignments), p))
        return assignments[int(np.argmin(cost.round(_DIGITS)))]

    def greedy(self, order: np.ndarray) -> np.ndarray:
        """Assign the groups in this order, each to the part where the cost grows least."""
        filled, part = np.zeros((len(self.targets), self.shares.shape[1])), np.zeros(len(self.shares), np.int64)
        parts = np.arange(len(self.targets))
        for g in order:
            change = self.part_cost(filled + self.shares[g], parts) - self.part_cost(filled, parts)
            part[g] = int(np.argmin(change.round(_DIGITS)))
            filled[part[g]] += self.shares[g]
        return part

    def improve(self, part: np.ndarray) -> np.ndarray:
        """Move the best group, or exchange the best two, until no change lowers the cost."""
        part, cost = part.copy(), self.cost(part)
        if len(part) > _EXCHANGED:
            return part
        for _ in range(4 * len(part)):
            best = part.copy()
            for groups, parts in (self._best_move(part), self._best_exchange(part)):
                changed = part.copy()
                changed[groups] = parts
                if self.cost(changed) < self.cost(best):
                    best = changed
            if self.cost(best) >= cost:
                break
            part, cost = best, self.cost(best)
        return part

    def _best_move(self, part: np.ndarray) -> tuple[list[int], list[int]]:
        """Return the group to move and its new part."""
        filled, parts = self.filled(part), np.arange(len(self.targets))
        old = self.part_cost(filled, parts)
        leaving = self.part_cost(filled[part] - self.shares, part) - old[part]
        joining = self.part_cost(filled[None] + self.shares[:, None], parts[None]) - old
        change = leaving[:, None] + joining
        change[np.arange(len(part)), part] = np.inf
        g, p = np.unravel_index(int(np.argmin(change.round(_DIGITS))), change.shape)
        return [int(g)], [int(p)]

    def _best_exchange(self, part: np.ndarray) -> tuple[list[int], list[int]]:
        """Return the two groups to exchange and their new parts."""
        filled = self.filled(part)
        old = self.part_cost(filled, np.arange(len(self.targets)))
        difference = self.shares[None] - self.shares[:, None]  # what the part of the first group gains
        change = self.part_cost(filled[part][:, None] + difference, part[:, None])
        change = change - old[part][:, None]
        change = change + change.T
        change[part[:, None] == part[None]] = np.inf
        a, b = np.unravel_index(int(np.argmin(change.round(_DIGITS))), change.shape)
        return [int(a), int(b)], [int(part[b]), int(part[a])]


def _greedy_starts(problem: _Problem, seed: int) -> list[np.ndarray]:
    """Return the best greedy assignments, from large groups to small, in orders with different random changes."""
    weight = problem.shares.sum(axis=1)
    starts = []
    for attempt in range(int(np.clip(20_000 // len(weight), 1, 64))):
        jitter = np.array([keyed_seed(seed, "attempt", attempt, g) for g in range(len(weight))]) / 2**32
        order = np.argsort(-(weight * (1 + jitter)).round(_DIGITS), kind="stable")
        starts.append(problem.greedy(order))
    distinct = {start.tobytes(): start for start in starts}
    return sorted(distinct.values(), key=problem.cost)[:_IMPROVED]
