"""Splitting and balancing: the study's rule over patches, and the one over groups that cannot leak.

All functions take and return arrays of row numbers; nothing here reads a store.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import keyed_seed
from histoxai.split.assign import assign_groups

TRAIN, VALIDATION, TEST = 1, 2, 3
_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}


@dataclass
class SplitPlan:
    """What to write: row in the parent, quarter turns and split of every patch; and the table behind it.

    parent (n,) int32, rotation (n,) uint8, split (n,) uint8, sorted by parent, then rotation.
    table: one dict a class: patches, rotated (patches after rotation), train, validation, test.
    notes: where balance or the fractions fall short. off: by how much a class's share of a split differs at most from
    what it should be, before training is balanced; None where nothing was aimed at.
    """

    parent: np.ndarray
    rotation: np.ndarray
    split: np.ndarray
    table: list[dict[str, int | str]]
    notes: list[str] = field(default_factory=list)
    off: float | None = None


def classes_to_rotate(counts: np.ndarray) -> np.ndarray:
    """The study's rule: which classes get copies rotated by 90, 180 and 270 degrees.

    The smallest does; then every other class that has no more patches than it now has. counts (C,) ->
    bool (C,).
    """
    smallest = int(np.argmin(counts))
    rotate = np.asarray(counts) <= 4 * counts[smallest]
    rotate[smallest] = True
    return rotate


def split_sizes(n: int, fractions: tuple[float, float, float]) -> tuple[int, int, int]:
    """Patches of a class in train, validation and test: int(f n), int(f n), the rest."""
    train, validation = int(fractions[0] * n), int(fractions[1] * n)
    return train, validation, n - train - validation


def plan_by_patch(label: np.ndarray, classes: list[str], fractions: tuple[float, float, float], seed: int) -> SplitPlan:
    """The study's rule, exactly: rotate, balance all classes, draw at random over patches.

    Rotated copies of one patch land on both sides of the split; that is the study's leak, kept on request.
    """
    counts = _counts(label, classes)
    rotate = classes_to_rotate(counts)
    size = int(np.min(counts * np.where(rotate, 4, 1)))
    parts, table = [], []
    for code, name in enumerate(classes):
        copies = _copies(np.flatnonzero(label == code), bool(rotate[code]))
        chosen = _shuffled(copies, seed, "patch", name)[:size]
        split = np.repeat([TRAIN, VALIDATION, TEST], split_sizes(size, fractions))
        parts.append(np.column_stack([chosen, split]))
        table.append(_row(name, counts[code], len(copies), split))
    leak = "rotated copies of one patch can be on both sides of this split (the study's rule); "
    return _plan(parts, table, [leak + "accuracy measured on it is too good"])


def balance_train(
    label: np.ndarray, split: np.ndarray, classes: list[str], fractions: tuple[float, ...] | None, seed: int
) -> SplitPlan:
    """Rotate and balance the train rows of a given split by the study's rule; leave the others alone.

    fractions: what the split aimed at, for the notes; None where the source made it.
    """
    totals = _counts(label, classes)
    counts = _counts(label[split == TRAIN], classes, "train ")
    rotate = classes_to_rotate(counts)
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
    off = None if fractions is None else _largest_deviation(label, split, len(classes), fractions)
    return replace(_plan(parts, table, _shortfalls(label, split, classes, fractions)), off=off)


def keep_all(
    label: np.ndarray, split: np.ndarray, classes: list[str], fractions: tuple[float, ...] | None
) -> SplitPlan:
    """Every row of a split as it is: no turned copies, no balance; for stores with masks and no classes."""
    rows = np.flatnonzero(split > 0)
    table = [
        _row(name, (label == code).sum(), (label == code).sum(), split[label == code])
        for code, name in enumerate(classes)
    ]
    kept = np.column_stack([rows, np.zeros_like(rows), split[rows]])
    off = None if fractions is None else _largest_deviation(label, split, len(classes), fractions)
    return replace(_plan([kept], table, _shortfalls(label, split, classes, fractions)), off=off)


def split_units(
    label: np.ndarray, unit: np.ndarray, classes: int, fractions: tuple[float, float, float], seed: int
) -> np.ndarray:
    """Whole units to train, validation and test, so that every class comes near its fractions; (n,) uint8.

    unit (n,): group, or family of relatives.
    """
    member, part = _parts(label, unit, classes, np.asarray(fractions), seed)
    return (part[member] + 1).astype(np.uint8)


def split_folds(label: np.ndarray, unit: np.ndarray, classes: int, folds: int, fold: int, seed: int) -> np.ndarray:
    """Whole units to `folds` equal parts: number `fold` is test, the one behind it validation, the rest train."""
    member, part = _parts(label, unit, classes, np.full(folds, 1 / folds), seed)
    turn = (part[member] - fold) % folds
    return np.where(turn == 0, TEST, np.where(turn == 1, VALIDATION, TRAIN)).astype(np.uint8)


def hold_out(
    label: np.ndarray,
    unit: np.ndarray,
    held: np.ndarray,
    classes: int,
    fractions: tuple[float, float, float],
    seed: int,
) -> np.ndarray:
    """Rows that are `held` (n,) bool are test, the others train and validation in their proportion; (n,) uint8.

    A unit that has rows on both sides keeps only those held; its others get 0, no split.
    """
    both = np.isin(unit, unit[held])
    split = np.where(held, TEST, 0).astype(np.uint8)
    rest = ~both
    if rest.any():
        shares = np.array(fractions[:2]) / sum(fractions[:2])
        member, part = _parts(label[rest], unit[rest], classes, shares, seed)
        split[rest] = part[member] + 1
    return split


def _parts(
    label: np.ndarray, unit: np.ndarray, classes: int, targets: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    # place of each row's unit among all, and the part of each; units are known by their first row
    ids, first, member = np.unique(unit, return_index=True, return_inverse=True)
    counts = np.zeros((len(ids), classes), np.int64)
    known = label >= 0
    np.add.at(counts, (member[known], label[known]), 1)
    return member, assign_groups(counts, targets, first, seed)


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


def _plan(parts: list[np.ndarray], table: list[dict[str, int | str]], notes: list[str]) -> SplitPlan:
    rows = np.concatenate(parts)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    return SplitPlan(
        rows[:, 0].astype(np.int32), rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8), table, notes
    )


def _largest_deviation(label: np.ndarray, split: np.ndarray, classes: int, fractions: tuple[float, ...]) -> float:
    shares = [[float((split[label == code] == k).mean()) for k in _NAMES] for code in range(classes)]
    return float(np.abs(np.array(shares) - np.array(fractions)).max())


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
