"""A preview of a split: patches of each class and split, their rotated copies, and what training makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from histoxai.core.provenance import keyed_seed
from histoxai.report.contact_sheet import COLUMNS, Band, Section, Strip, Tile, draw_sheet
from histoxai.settings import Augmentation
from histoxai.split.rotation import rotation_suffix
from histoxai.store.patches import Copies
from histoxai.store.schema import SPLITS
from histoxai.train.augmentation import Augmenter

# Epochs whose augmentation is shown.
_EPOCHS = 4


def draw_preview(
    title: str, subtitle: str, classes: Sequence[str], copies: Copies, changes: Augmentation | None, seed: int
) -> bytes:
    """A few patches of each class and split as PNG; patches are chosen by hash of their row.

    changes: shown beside patches of the train split, as the first epochs of a training with `seed` would have it.
    """
    sections = [s for split in (1, 2, 3) if (s := _section(classes, copies, split, changes, seed))]
    shown = "; blue: what training makes of them, epoch by epoch" if changes else ""
    return draw_sheet(title, f"{subtitle}; copies as stored{shown}", sections)


def _section(
    classes: Sequence[str], copies: Copies, split: int, changes: Augmentation | None, seed: int
) -> Section | None:
    rows = np.flatnonzero(copies.split == split)
    if not len(rows):
        return None
    bands = []
    for label, name in enumerate(classes):
        if len(of_class := rows[copies.label[rows] == label]):
            strips = list(_strips(copies, of_class, changes if SPLITS[split] == "train" else None, seed))
            bands.append(Band(name, f"{len(of_class):,} copies", strips))
    return Section(f"{SPLITS[split]}: {len(rows):,} copies of {len(set(copies.parent[rows])):,} patches", bands)


def _strips(copies: Copies, rows: np.ndarray, changes: Augmentation | None, seed: int) -> Iterator[Strip]:
    # a line of patches, and two patches at least
    parents = sorted(set(copies.parent[rows].tolist()), key=lambda p: keyed_seed(0, "preview", p, bits=64))
    left = 2 * COLUMNS
    for k, parent in enumerate(parents):
        of_parent = rows[copies.parent[rows] == parent].tolist()
        width = len(of_parent) + (_EPOCHS if changes else 0)
        if k >= 2 and left - width < COLUMNS:
            return
        left -= width
        tiles = [Tile.of(copies.image(row), f"{90 * int(copies.rotation[row])}°") for row in of_parent]
        first = of_parent[0]
        made = _augmented(copies.image(first), str(copies.ids[first]), changes, seed) if changes else []
        tiles += [Tile.of(image, f"epoch {k + 1}", made=True) for k, image in enumerate(made)]
        # the turns stand under the tiles
        yield Strip(str(copies.ids[first]).removesuffix(rotation_suffix(int(copies.rotation[first]))), tiles)


def _augmented(image: np.ndarray, patch_id: str, changes: Augmentation, seed: int) -> list[np.ndarray]:
    # what the first epochs of training see
    batch, none = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255, torch.zeros(1)
    augment = Augmenter(changes, seed)
    made = [augment(batch, none, epoch, [patch_id])[0][0] for epoch in range(_EPOCHS)]
    return [(x.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for x in made]
