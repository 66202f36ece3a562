"""Draw a preview of a split: patches by split and class, their rotated copies, and their augmentation in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from histoxai.core.provenance import keyed_seed
from histoxai.report.contact_sheet import COLUMNS, Band, Section, Strip, Tile, draw_sheet
from histoxai.settings import Augmentation
from histoxai.split.rotation import rotation_suffix
from histoxai.store.patches import Copies
from histoxai.store.schema import SPLITS
from histoxai.train.augmentation import Augmenter

_EPOCHS = 4  # with augmented tiles
_LEAST_PARENTS = 2


def draw_preview(
    title: str, subtitle: str, classes: Sequence[str], copies: Copies, changes: Augmentation | None, seed: int
) -> bytes:
    """Draw a few patches of each split and class as PNG; patches are chosen by hash of their row.

    changes: drawn beside patches of the train split, as in the first epochs of a training with `seed`; None for none.
    """
    preview = _Preview(copies, changes, seed)
    sections = [preview.section(split, classes) for split in (1, 2, 3) if (copies.split == split).any()]
    legend = "; blue: what training makes of them, epoch by epoch" if changes else ""
    return draw_sheet(title, f"{subtitle}; copies as stored{legend}", sections)


@dataclass(frozen=True)
class _Preview:
    copies: Copies
    changes: Augmentation | None
    seed: int

    def section(self, split: int, classes: Sequence[str]) -> Section:
        copies, rows = self.copies, np.flatnonzero(self.copies.split == split)
        bands = []
        for label, name in enumerate(classes):
            if len(of_class := rows[copies.label[rows] == label]):
                bands.append(Band(name, f"{len(of_class):,} copies", list(self._strips(of_class, split))))
        parents = len(set(copies.parent[rows]))
        return Section(f"{SPLITS[split]}: {len(rows):,} copies of {parents:,} patches", bands)

    def _strips(self, rows: np.ndarray, split: int) -> Iterator[Strip]:
        # about one line of tiles, and at least _LEAST_PARENTS patches
        copies, changes = self.copies, self.changes if SPLITS[split] == "train" else None
        parents = sorted(set(copies.parent[rows].tolist()), key=lambda p: keyed_seed(0, "preview", p, bits=64))
        room = 2 * COLUMNS
        for k, parent in enumerate(parents):
            of_parent = rows[copies.parent[rows] == parent].tolist()
            width = len(of_parent) + (_EPOCHS if changes else 0)
            if k >= _LEAST_PARENTS and room - width < COLUMNS:
                return
            room -= width
            tiles = [Tile.of(copies.image(row), f"{90 * int(copies.rotation[row])}°") for row in of_parent]
            first = of_parent[0]
            if changes:
                tiles += self._augmented_tiles(first, changes)
            # the turns are in the notes of the tiles
            yield Strip(str(copies.ids[first]).removesuffix(rotation_suffix(int(copies.rotation[first]))), tiles)

    def _augmented_tiles(self, row: int, changes: Augmentation) -> Iterator[Tile]:
        image = torch.from_numpy(self.copies.image(row).copy()).permute(2, 0, 1)[None].float() / 255
        augment, ids, no_label = Augmenter(changes, self.seed), [str(self.copies.ids[row])], torch.zeros(1)
        for epoch in range(_EPOCHS):
            augmented = augment(image, no_label, epoch, ids)[0][0].permute(1, 2, 0).numpy()
            yield Tile.of((augmented * 255).round().astype(np.uint8), f"epoch {epoch + 1}", augmented=True)
