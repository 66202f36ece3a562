"""Splitting and balancing: the study's rule over patches, and the one over groups that cannot leak.

All functions take and return arrays of row numbers; nothing here reads a store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from histoxai.errors import InputRefused
from histoxai.provenance import keyed_seed

TRAIN, VALIDATION, TEST = 1, 2, 3
_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


@dataclass
class Plan:
    """What to write: row in the parent, quarter turns and split of every patch; and the table behind it.

    parent (n,) int32, rotation (n,) uint8, split (n,) uint8, sorted by parent, then rotation.
    table: one dict a class: patches, rotated (patches after rotation), train, validation, test.
    notes: where balance or the fractions fall short.
    """

    parent: np.ndarray
    rotation: np.ndarray
    split: np.ndarray
    table: list[dict[str, int | str]]
    notes: list[str] = field(default_factory=list)


def rotated_classes(counts: np.ndarray) -> np.ndarray:
    """The study's rule: which classes get copies rotated by 90, 180 and 270 degrees.

    The smallest does; then every other class that has no more patches than it now has. counts (C,) ->
    bool (C,).
    """
    smallest = int(np.argmin(counts))
    rotate = np.asarray(counts) <= 4 * counts[smallest]
    rotate[smallest] = True
    return rotate


def sizes(n: int, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    """Patches of a class in train, validation and test: int(f n), int(f n), the rest."""
    train, validation = int(fractions[0] * n), int(fractions[1] * n)
    return train, validation, n - train - validation


def plan_by_patch(label: np.ndarray, classes: list[str], fractions: tuple[float, float, float], seed: int) -> Plan:
    """The study's rule, exactly: rotate, balance all classes, draw at random over patches.

    Rotated copies of one patch land on both sides of the split; that is the study's leak, kept on request.
    """
    counts = _counts(label, classes)
    rotate = rotated_classes(counts)
    size = int(np.min(counts * np.where(rotate, 4, 1)))
    parts, table = [], []
    for code, name in enumerate(classes):
        copies = _copies(np.flatnonzero(label == code), bool(rotate[code]))
        chosen = _shuffled(copies, seed, "patch", name)[:size]
        split = np.repeat([TRAIN, VALIDATION, TEST], sizes(size, fractions))
        parts.append(np.column_stack([chosen, split]))
        table.append(_row(name, counts[code], len(copies), split))
    leak = "rotated copies of one patch can be on both sides of this split (the study's rule); "
    return _plan(parts, table, [leak + "accuracy measured on it is too good"])


def plan_by_group(
    label: np.ndarray,
    group: np.ndarray,
    classes: list[str],
    fractions: tuple[float, float, float],
    seed: int,
) -> Plan:
    """Split whole groups first, then rotate and balance within train only.

    Validation and test keep their natural proportions and hold no copies.
    """
    return balance_train(label, split_groups(label, group, len(classes), fractions, seed), classes, fractions, seed)


def balance_train(
    label: np.ndarray, split: np.ndarray, classes: list[str], fractions: tuple[float, ...] | None, seed: int
) -> Plan:
    """Rotate and balance the train rows of a given split by the study's rule; leave the others alone.

    fractions: what the split aimed at, for the notes; None where the source made it.
    """
    totals = _counts(label, classes)
    counts = _counts(label[split == TRAIN], classes, "train ")
    rotate = rotated_classes(counts)
    size = int(np.min(counts * np.where(rotate, 4, 1)))
    parts, table = [], []
    for code, name in enumerate(classes):
        mine = label == code
        copies = _copies(np.flatnonzero(mine & (split == TRAIN)), bool(rotate[code]))
        chosen = _shuffled(copies, seed, "train", name)[:size]
        rest = np.flatnonzero(mine & (split > TRAIN))
        kept = np.concatenate([chosen, np.column_stack([rest, np.zeros_like(rest)])])
        codes = np.concatenate([np.full(len(chosen), TRAIN), split[rest]])
        parts.append(np.column_stack([kept, codes]))
        table.append(_row(name, totals[code], len(copies) + len(rest), codes))
    return _plan(parts, table, _shortfalls(label, split, classes, fractions))


def split_groups(
    label: np.ndarray, group: np.ndarray, classes: int, fractions: tuple[float, float, float], seed: int
) -> np.ndarray:
    """Assign whole groups to train, validation and test so that every class comes near its fractions.

    Greedy over groups, largest first, from several seeded orders; the assignment with the smallest
    squared deviation wins, and one that leaves a class out of a split loses to one that does not.
    Returns (n,) uint8.
    """
    ids, member = np.unique(group, return_inverse=True)
    share = np.zeros((len(ids), classes))
    np.add.at(share, (member, label), 1)
    weight = share.sum(axis=1)
    share /= np.maximum(share.sum(axis=0), 1)
    target = np.asarray(fractions)[:, None]
    best, best_cost = None, np.inf
    for attempt in range(int(np.clip(20_000 // len(ids), 1, 64))):
        keys = [keyed_seed(seed, "split", attempt, g) for g in ids]
        # Large groups first, roughly: the jitter makes the attempts differ.
        order = np.argsort(-weight * (1 + np.array(keys) / 2**32), kind="stable")
        chosen, filled = _assign(share, target, order)
        wanted = (target > 0) & (share.sum(axis=0) > 0)
        cost = float(((filled - target) ** 2).sum() + 10 * (wanted & (filled == 0)).sum())
        if cost < best_cost:
            best, best_cost = chosen, cost
    assert best is not None
    return (best[member] + 1).astype(np.uint8)


def _assign(share: np.ndarray, target: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    filled = np.zeros((3, share.shape[1]))
    chosen = np.zeros(len(share), np.int64)
    for g in order:
        gain = ((filled + share[g] - target) ** 2 - (filled - target) ** 2).sum(axis=1)
        gain[target[:, 0] == 0] = np.inf
        chosen[g] = int(np.argmin(gain))
        filled[chosen[g]] += share[g]
    return chosen, filled


def _counts(label: np.ndarray, classes: list[str], where: str = "") -> np.ndarray:
    counts = np.bincount(label[label >= 0], minlength=len(classes))
    if not counts.all():
        name = classes[int(np.argmin(counts))]
        raise InputRefused(f"class '{name}' has no {where}patch; leave it out with `histoxai ingest --classes`")
    return counts


def _copies(rows: np.ndarray, rotate: bool) -> np.ndarray:
    # (n, 2): row, quarter turns
    turns = np.arange(4 if rotate else 1)
    return np.column_stack([np.repeat(rows, len(turns)), np.tile(turns, len(rows))])


def _shuffled(copies: np.ndarray, seed: int, *key: str) -> np.ndarray:
    return np.random.default_rng(keyed_seed(seed, *key)).permutation(copies)


def _row(name: str, patches: int, rotated: int, split: np.ndarray) -> dict[str, int | str]:
    row: dict[str, int | str] = {"class": name, "patches": int(patches), "rotated": int(rotated)}
    return row | {word: int((split == code).sum()) for code, word in _NAMES.items()}


def _plan(parts: list[np.ndarray], table: list[dict[str, int | str]], notes: list[str]) -> Plan:
    rows = np.concatenate(parts)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return Plan(rows[:, 0].astype(np.int32), rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8), table, notes)


def _shortfalls(
    label: np.ndarray, split: np.ndarray, classes: list[str], fractions: tuple[float, ...] | None
) -> list[str]:
    notes = []
    for code, name in enumerate(classes):
        mine = split[label == code]
        for k, word in _NAMES.items():
            got = float((mine == k).mean())
            aim = None if fractions is None else fractions[k - 1]
            if got == 0 and aim != 0:
                notes.append(f"class {name}: no patch in {word}; too few groups, or the source has none there")
            elif aim and not 0.6 <= got / aim <= 1.5:
                notes.append(f"class {name}: {got:.0%} in {word} instead of {aim:.0%}, since groups stay whole")
    return notes
