"""Split and balance patches: by the study's rule over patches, or over whole groups, which cannot leak.

All functions take and return arrays of row numbers; nothing here reads a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import keyed_seed
from histoxai.split.assign import assign_groups

TRAIN, VALIDATION, TEST = 1, 2, 3
_NAMES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
_LEAK = "{} can be on both sides of this split (the study's rule); accuracy measured on it is too good"

Fractions = tuple[float, float, float]  # of train, validation and test, with sum 1


@dataclass
class SplitPlan:
    """The patches to write, and the table behind them.

    parent (n,) int32: row in the parent store. rotation (n,) uint8: quarter turns. split (n,) uint8. Patches are sorted
    by parent, then rotation. table: one dict a class with patches, rotated (patches after rotation), train, validation
    and test. notes: where balance or fractions are missed. largest_deviation: between the share of a class in a split
    and its fraction, before training is balanced; None where there were no fractions.
    """

    parent: np.ndarray
    rotation: np.ndarray
    split: np.ndarray
    table: list[dict[str, int | str]]
    notes: list[str] = field(default_factory=list)
    largest_deviation: float | None = None


@dataclass(frozen=True)
class Labels:
    """The label (n,) of each patch, -1 for none, and the class names that labels index."""

    label: np.ndarray
    classes: list[str]

    def counts(self, rows: np.ndarray | None = None, where: str = "") -> np.ndarray:
        """Count the patches (C,) of each class, among `rows` (n,) bool; raises InputRefused for a class without any."""
        label = self.label if rows is None else self.label[rows]
        counts = np.bincount(label[label >= 0], minlength=len(self.classes))
        if not counts.all():
            name = self.classes[int(np.argmin(counts))]
            raise InputRefused(f"class '{name}' has no {where}patch; leave it out with `histoxai ingest --classes`")
        return counts

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the name of each class and its rows (n,) bool."""
        return ((name, self.label == code) for code, name in enumerate(self.classes))


def classes_to_rotate(counts: np.ndarray) -> np.ndarray:
    """Return the classes (C,) bool that get copies rotated by 90, 180 and 270 degrees, by the study's rule.

    These are the smallest class, and every other class that has no more patches than the smallest has after rotation.
    counts (C,): patches of each class.
    """
    smallest = int(np.argmin(counts))
    rotate = np.asarray(counts) <= 4 * counts[smallest]
    rotate[smallest] = True
    return rotate


def _rotated_and_size(counts: np.ndarray, rotate: bool) -> tuple[np.ndarray, int]:
    """Return the classes (C,) bool that get copies, and the patches of each class after balancing."""
    rotated = classes_to_rotate(counts) if rotate else np.zeros(len(counts), bool)
    return rotated, int(np.min(counts * np.where(rotated, 4, 1)))


def split_sizes(n: int, fractions: Fractions) -> tuple[int, int, int]:
    """Return the patches of a class of n in train, validation and test: int(f n), int(f n), and the rest."""
    train, validation = int(fractions[0] * n), int(fractions[1] * n)
    return train, validation, n - train - validation


def plan_by_patch(
    label: np.ndarray, classes: list[str], fractions: Fractions, seed: int, rotate: bool = True
) -> SplitPlan:
    """Split by the study's rule, exactly: rotate, balance all classes, and draw patches at random.

    Rotated copies of one patch get into different splits. This is the leak of the study, kept on request. rotate: False
    to leave the copies out.
    """
    labels = Labels(label, classes)
    counts = labels.counts()
    rotated, size = _rotated_and_size(counts, rotate)
    parts, table = [], []
    for code, (name, rows) in enumerate(labels):
        copies = _copies(np.flatnonzero(rows), bool(rotated[code]))
        drawn = _shuffled(copies, seed, "patch", name)[:size]
        split = np.repeat([TRAIN, VALIDATION, TEST], split_sizes(size, fractions))
        parts.append(np.column_stack([drawn, split]))
        table.append(_table_row(name, counts[code], len(copies), split))
    return _plan(parts, table, [_LEAK.format("rotated copies of one patch" if rotate else "patches of one scan")])


def balance_train(
    label: np.ndarray,
    split: np.ndarray,
    classes: list[str],
    fractions: tuple[float, ...] | None,
    seed: int,
    rotate: bool = True,
) -> SplitPlan:
    """Rotate and balance the train rows of a split by the study's rule; keep the other rows as they are.

    fractions: those that the split aimed at, for the notes; None where the split came with the source. rotate: False to
    balance without rotated copies.
    """
    labels = Labels(label, classes)
    totals, counts = labels.counts(), labels.counts(split == TRAIN, "train ")
    rotated, size = _rotated_and_size(counts, rotate)
    parts, table = [], []
    for code, (name, rows) in enumerate(labels):
        copies = _copies(np.flatnonzero(rows & (split == TRAIN)), bool(rotated[code]))
        drawn = _shuffled(copies, seed, "train", name)[:size]
        others = np.flatnonzero(rows & (split > TRAIN))
        codes = np.concatenate([np.full(len(drawn), TRAIN), split[others]])
        unrotated = np.column_stack([others, np.zeros_like(others)])
        parts.append(np.column_stack([np.concatenate([drawn, unrotated]), codes]))
        table.append(_table_row(name, totals[code], len(copies) + len(others), codes))
    return _with_deviations(_plan(parts, table), labels, split, fractions)


def keep_all(
    label: np.ndarray, split: np.ndarray, classes: list[str], fractions: tuple[float, ...] | None
) -> SplitPlan:
    """Keep every row of a split, without rotated copies and balance; for stores with masks and no classes."""
    labels = Labels(label, classes)
    rows = np.flatnonzero(split > 0)
    table = [_table_row(name, own.sum(), own.sum(), split[own]) for name, own in labels]
    plan = _plan([np.column_stack([rows, np.zeros_like(rows), split[rows]])], table)
    return _with_deviations(plan, labels, split, fractions)


def split_units(label: np.ndarray, unit: np.ndarray, classes: int, fractions: Fractions, seed: int) -> np.ndarray:
    """Return the split (n,) uint8 of each row: whole units, so that every class comes near its fractions.

    unit (n,): a group, or a connected component of related patches.
    """
    return (_assign_units(label, unit, classes, np.asarray(fractions), seed) + 1).astype(np.uint8)


def split_folds(label: np.ndarray, unit: np.ndarray, classes: int, folds: int, fold: int, seed: int) -> np.ndarray:
    """Return the split (n,) uint8 of each row, with whole units in `folds` equal parts.

    Part `fold` is test, the next one validation, the rest train.
    """
    distance = (_assign_units(label, unit, classes, np.full(folds, 1 / folds), seed) - fold) % folds
    return np.where(distance == 0, TEST, np.where(distance == 1, VALIDATION, TRAIN)).astype(np.uint8)


def hold_out(
    label: np.ndarray, unit: np.ndarray, held_out: np.ndarray, classes: int, fractions: Fractions, seed: int
) -> np.ndarray:
    """Return the split (n,) uint8 of each row: test where `held_out` (n,) bool, else train and validation.

    Train and validation keep their proportion. Of a unit with rows on both sides only those that are held out stay; its
    other rows get 0, no split.
    """
    split = np.where(held_out, TEST, 0).astype(np.uint8)
    rest = ~np.isin(unit, unit[held_out])
    if rest.any():
        shares = np.array(fractions[:2]) / sum(fractions[:2])
        split[rest] = _assign_units(label[rest], unit[rest], classes, shares, seed) + 1
    return split


def _assign_units(label: np.ndarray, unit: np.ndarray, classes: int, targets: np.ndarray, seed: int) -> np.ndarray:
    """Return the part (n,) of each row; units stay whole."""
    ids, first, member = np.unique(unit, return_index=True, return_inverse=True)
    counts = np.zeros((len(ids), classes), np.int64)
    known = label >= 0
    np.add.at(counts, (member[known], label[known]), 1)
    return assign_groups(counts, targets, first, seed)[member]  # units are named by their first row


def _copies(rows: np.ndarray, rotate: bool) -> np.ndarray:
    """Return (n, 2): row and quarter turns of each copy."""
    turns = np.arange(4 if rotate else 1)
    return np.column_stack([np.repeat(rows, len(turns)), np.tile(turns, len(rows))])


def _shuffled(copies: np.ndarray, seed: int, *key: str) -> np.ndarray:
    return np.random.default_rng(keyed_seed(seed, *key)).permutation(copies)


def _table_row(name: str, patches: int, rotated: int, split: np.ndarray) -> dict[str, int | str]:
    row: dict[str, int | str] = {"class": name, "patches": int(patches), "rotated": int(rotated)}
    return row | {word: int((split == code).sum()) for code, word in _NAMES.items()}


def _plan(parts: list[np.ndarray], table: list[dict[str, int | str]], notes: list[str] | None = None) -> SplitPlan:
    """Sort the patches of all parts, each (k, 3): row, quarter turns, split."""
    rows = np.concatenate(parts)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    parent, rotation, split = rows[:, 0].astype(np.int32), rows[:, 1].astype(np.uint8), rows[:, 2].astype(np.uint8)
    return SplitPlan(parent, rotation, split, table, notes or [])


def _with_deviations(
    plan: SplitPlan, labels: Labels, split: np.ndarray, fractions: tuple[float, ...] | None
) -> SplitPlan:
    """Add the largest deviation from the fractions to a plan, and a note on each class that is far from them."""
    shares = {(name, k): float((split[rows] == k).mean()) for name, rows in labels for k in _NAMES}
    notes = []
    for (name, k), share in shares.items():
        target = None if fractions is None else fractions[k - 1]
        if share == 0 and target != 0:
            notes.append(f"class {name}: no patch in {_NAMES[k]}; too few groups, or the source has none there")
        elif target and not 0.6 <= share / target <= 1.5:
            notes.append(f"class {name}: {share:.0%} in {_NAMES[k]} instead of {target:.0%}, since groups stay whole")
    if fractions is None:
        return replace(plan, notes=notes)
    deviation = max(abs(share - fractions[k - 1]) for (_, k), share in shares.items())
    return replace(plan, notes=notes, largest_deviation=float(deviation))
