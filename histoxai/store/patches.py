"""Patch stores: open one, select rows, read images and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import require_single_line
from histoxai.store.parents import ParentKind
from histoxai.store.schema import SPLITS, ArraySpec
from histoxai.store.shards import Item, Store, open_store

IMAGES = "images"
TARGETS = "targets"
_ROWS_AT_ONCE = 64  # of targets
_STANDARD_ARRAYS = (IMAGES, TARGETS, "label", "group", "patch_id", "split", "identity", "quality", "parent", "rotation")


class Patches:
    """A complete `patches` store for reading.

    label (n,) int64, -1 for none; group, patch_id (n,) str; split (n,) uint8, an index into SPLITS; images
    (n, H, W, 3) uint8. `column` reads other arrays, such as `patient` or `quality`. Raises InputRefused if the store is
    no patch store, and Incomplete if shards are missing.
    """

    def __init__(self, path: Path) -> None:
        self.store: Store = open_store(path, "patches", "ingest")
        self.path = path
        self.store.require_complete()
        self.classes: list[str] = [str(c) for c in self.store.group.attrs["classes"]]
        mpp = self.store.group.attrs["mpp"]
        self.mpp: float | None = None if mpp is None else float(mpp)
        self.label = self.store.read("label").astype(np.int64)
        self.group = self.store.read("group")
        self.patch_id = self.store.read("patch_id")
        self.split = self.store.read("split")
        # `ingest` refuses such names, but the store may come from elsewhere
        require_single_line({"class": self.classes, "group": self.group, "patch": self.patch_id}, f"{path}: ")
        self.images = self.store.array(IMAGES)
        self.has_targets = self.store.has(TARGETS)
        self.digest = self.store.digest()

    def __len__(self) -> int:
        return len(self.label)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.images.shape[1], self.images.shape[2]

    def column(self, path: str) -> np.ndarray | None:
        """Return a small array (n, ...) with values of each patch, None if the store does not have it."""
        return self.store.read(path) if self.store.has(path) else None

    def extras(self) -> list[str]:
        """Return the names of this store's additional columns, such as `patient` or `x`."""
        return [name for name in self.store.arrays() if name not in _STANDARD_ARRAYS]

    def rows(self, split: str, per_class: int | None = None) -> np.ndarray:
        """Return the rows (k,) of a split in store order; `per_class`: the first K of each class by hash of patch_id.

        Raises InputRefused if the split is empty.
        """
        rows = np.arange(len(self)) if split == "all" else np.flatnonzero(self.split == SPLITS.index(split))
        if not len(rows):
            if str(self.store.header["run"]["command"]).startswith("histoxai augment"):
                why = "its groups were too few for all splits; bring more, or other `--fractions` (`augment --dry-run`)"
            else:
                why = "split it with `histoxai augment`"
            raise InputRefused(f"{self.path}: has no {split} patches; {why}")
        if per_class is None:
            return rows
        selected: list[int] = []
        for label in np.unique(self.label[rows]):
            of_class = rows[self.label[rows] == label]
            selected += sorted(of_class.tolist(), key=lambda r: _hash(str(self.patch_id[r])))[:per_class]
        return np.array(sorted(selected))

    def read(self, rows: Sequence[int] | np.ndarray, path: str = IMAGES) -> np.ndarray:
        """Read rows of an array, in any order."""
        return self.store.take(path, rows)


def first_target_row(store: Store, plane: int, rows: np.ndarray) -> int | None:
    """Return the first of these rows with a pixel in a target plane (0 tumor, 1 non-tumor), or None."""
    for k in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[k : k + _ROWS_AT_ONCE]
        positive = store.take(TARGETS, part)[:, plane].any(axis=(1, 2))
        if positive.any():
            return int(part[int(positive.argmax())])
    return None


# How to open the patch store that a store names as its parent.
PATCHES_PARENT = ParentKind("patches", Patches, lambda patches: patches.digest)


@dataclass(frozen=True)
class Copies:
    """Patches of an augmented store, or of a plan for one.

    parent (n,): row of the original patch. rotation (n,): quarter turns. split, label, ids (n,): as in a store. image:
    returns the pixels (H, W, 3) uint8 of a row.
    """

    parent: np.ndarray
    rotation: np.ndarray
    split: np.ndarray
    label: np.ndarray
    ids: np.ndarray
    image: Callable[[int], np.ndarray]


def image_item(
    n: int,
    size: tuple[int, int],
    shard: int,
    targets: bool,
    described: Mapping[str, tuple[Any, tuple[str, ...]]],
    more: Sequence[ArraySpec] = (),
) -> Item:
    """Return the item `images` of a patch store: pixels, targets and descriptive columns.

    n: patches. size: height and width. targets: whether the source has masks. described: path -> dtype and names of
    the columns. more: further arrays that are computed with the images.
    """
    specs = [ArraySpec(IMAGES, (n, *size, 3), np.uint8, shard)]
    if targets:
        specs.append(ArraySpec(TARGETS, (n, 2, *size), np.uint8, shard))
    specs += [ArraySpec(p, (n, len(c)), kind, shard, columns=c) for p, (kind, c) in described.items()]
    return Item(IMAGES, (*specs, *more))


def _hash(patch_id: str) -> bytes:
    return blake2b(patch_id.encode(), digest_size=8).digest()
