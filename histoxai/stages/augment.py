"""augment: patches.zarr -> balanced.zarr, split into train, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import provenance
from histoxai.errors import InputRefused
from histoxai.plots.sheet import COLUMNS, Band, Section, Strip, Tile, draw_sheet
from histoxai.progress import Progress
from histoxai.settings import Augment, Augmentation
from histoxai.store.create import create_or_match
from histoxai.store.files import write_atomically
from histoxai.store.patches import IMAGES, TARGETS, Patches, image_item
from histoxai.store.schema import SPLITS
from histoxai.store.split import Plan, balance_train, plan_by_group, plan_by_patch
from histoxai.store.work import fill
from histoxai.transforms.geometry import quarter_turns, suffix


def augment(
    source: Path,
    output: Path | None,
    settings: Augment,
    progress: Progress,
    *,
    force: bool = False,
    verify: bool = False,
) -> dict[str, Any]:
    """Split, rotate and balance a patch store; `output` None plans without writing.

    Raises InputRefused where the store has no classes, was augmented before, or cannot be split.
    """
    if output is not None:
        provenance.keep_apart(output, source)
    patches = Patches(source)
    _check(patches, settings)
    plan = make_plan(patches, settings)
    for note in plan.notes:
        progress.warn(note)
    if settings.split_by != "source" and patches.split.any():
        progress.say(f"{source} has a split of its own, not used here; --split-by source keeps it")
    if output is not None:
        _write(patches, output, settings, plan, progress, force, verify)
    return {
        "schema": "histoxai.augment/1",
        "output": None if output is None else str(output),
        "split_by": settings.split_by,
        "table": plan.table,
        "notes": plan.notes,
    }


def make_plan(patches: Patches, settings: Augment) -> Plan:
    """Which copies of which patches go into which split."""
    if settings.split_by == "patch":
        return plan_by_patch(patches.label, patches.classes, settings.fractions, settings.seed)
    if settings.split_by == "source":
        return balance_train(patches.label, patches.split, patches.classes, None, settings.seed)
    return plan_by_group(patches.label, patches.group, patches.classes, settings.fractions, settings.seed)


def _check(patches: Patches, settings: Augment) -> None:
    if not patches.classes:
        raise InputRefused(f"{patches.path}: its patches have no classes; `histoxai train-seg` takes it as it is")
    if "rotation" in patches.store.group:
        raise InputRefused(f"{patches.path}: was augmented already; start from the store that `ingest` made")
    if patches.size[0] != patches.size[1]:
        h, w = patches.size
        raise InputRefused(f"{patches.path}: patches of {w} x {h} px cannot be turned; tile them square")
    if settings.split_by == "source" and not patches.split.any():
        raise InputRefused(f"{patches.path}: the source gave no partitions; use --split-by group")


def _write(
    patches: Patches, output: Path, settings: Augment, plan: Plan, progress: Progress, force: bool, verify: bool
) -> None:
    label = patches.label[plan.parent]
    item = image_item(len(label), patches.size, settings.shard_size, patches.has_targets)
    chosen = {k: v for k, v in provenance.plain(settings).items() if k != "seed"}
    store = create_or_match(
        output,
        provenance.header(
            "patches/1",
            chosen,
            settings.seed,
            {"patches": provenance.parent(patches.path, output, patches.digest)},
            table=plan.table,
        ),
        {
            "label": label.astype(np.int16),
            "group": patches.group[plan.parent],
            "patch_id": _ids(patches, plan),
            "split": plan.split,
            "parent": plan.parent,
            "rotation": plan.rotation,
        },
        [item],
        attrs={"classes": patches.classes, "mpp": patches.mpp},
        force=force,
    )

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        parents, turns = plan.parent[start:stop], plan.rotation[start:stop]
        unique, at = np.unique(parents, return_inverse=True)
        images = patches.read(unique)
        made = {IMAGES: np.stack([quarter_turns(images[i], int(t)) for i, t in zip(at, turns, strict=True)])}
        if patches.has_targets:
            targets = patches.read(unique, TARGETS)
            planes = [quarter_turns(targets[i], int(t), (1, 2)) for i, t in zip(at, turns, strict=True)]
            made[TARGETS] = np.stack(planes)
        return made

    fill(store, item, compute, progress, verify=verify)


def _ids(patches: Patches, plan: Plan) -> np.ndarray:
    turned = [suffix(int(t)) for t in plan.rotation]
    return np.array([f"{patches.patch_id[r]}{s}" for r, s in zip(plan.parent, turned, strict=True)])


# Epochs whose augmentation a preview shows.
_EPOCHS = 4


@dataclass(frozen=True)
class _Copies:
    """Patches as a split store has them, or would have them: row of the source's patch, quarter turns, split, id."""

    parent: np.ndarray
    rotation: np.ndarray
    split: np.ndarray
    label: np.ndarray
    ids: np.ndarray
    image: Callable[[int], np.ndarray]


def preview(
    source: Path, output: Path, settings: Augment, changes: Augmentation | None, progress: Progress
) -> dict[str, Any]:
    """Draw a few patches of each class and split, their rotated copies, and what training would make of them.

    source: a store that `augment` made is shown as it is, any other as `settings` would split it. changes: shown for
    the first epochs of training patches. Patches are chosen by hash of patch_id. Raises InputRefused as `augment` does,
    and for an output inside the store.
    """
    if output.is_dir() or output.resolve().is_relative_to(source.resolve()):
        raise InputRefused(f"{output}: is a folder, or lies in the store; name a .png file outside of it")
    patches = Patches(source)
    if "rotation" in patches.store.group:
        copies, header = _stored(patches), patches.store.header
        table, split_by, notes = header.get("table"), header["settings"].get("split_by"), []
    else:
        _check(patches, settings)
        plan = make_plan(patches, settings)
        copies, table, split_by, notes = _planned(patches, plan), plan.table, settings.split_by, plan.notes
    sections = [s for split in (1, 2, 3) if (s := _section(patches, copies, split, changes, settings.seed))]
    shown = "; blue: what training makes of them, epoch by epoch" if changes else ""
    write_atomically(output, draw_sheet(source.name, f"split by {split_by}; copies as stored{shown}", sections))
    progress.say(f"{output}: written")
    return {
        "schema": "histoxai.augment/1",
        "output": None,
        "preview": str(output),
        "split_by": split_by,
        "table": table,
        "notes": notes,
    }


def _stored(patches: Patches) -> _Copies:
    parent, rotation = (patches.store.read(name) for name in ("parent", "rotation"))
    return _Copies(parent, rotation, patches.split, patches.label, patches.patch_id, lambda row: patches.read([row])[0])


def _planned(patches: Patches, plan: Plan) -> _Copies:
    def image(row: int) -> np.ndarray:
        return np.ascontiguousarray(quarter_turns(patches.read([plan.parent[row]])[0], int(plan.rotation[row])))

    return _Copies(plan.parent, plan.rotation, plan.split, patches.label[plan.parent], _ids(patches, plan), image)


def _section(patches: Patches, copies: _Copies, split: int, changes: Augmentation | None, seed: int) -> Section | None:
    rows = np.flatnonzero(copies.split == split)
    if not len(rows):
        return None
    bands = []
    for label, name in enumerate(patches.classes):
        if len(of_class := rows[copies.label[rows] == label]):
            strips = list(_strips(copies, of_class, changes if SPLITS[split] == "train" else None, seed))
            bands.append(Band(name, f"{len(of_class):,} copies", strips))
    return Section(f"{SPLITS[split]}: {len(rows):,} copies of {len(set(copies.parent[rows])):,} patches", bands)


def _strips(copies: _Copies, rows: np.ndarray, changes: Augmentation | None, seed: int) -> Iterator[Strip]:
    # a line of patches, and two patches at least
    parents = sorted(set(copies.parent[rows].tolist()), key=lambda p: provenance.keyed_seed(0, "preview", p, bits=64))
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
        yield Strip(str(copies.ids[first]).removesuffix(suffix(int(copies.rotation[first]))), tiles)


def _augmented(image: np.ndarray, patch_id: str, changes: Augmentation, seed: int) -> list[np.ndarray]:
    # what the first epochs of training see
    import torch

    from histoxai.transforms.augmentation import Augmenter

    batch, none = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255, torch.zeros(1)
    augment = Augmenter(changes, seed)
    made = [augment(batch, none, epoch, [patch_id])[0][0] for epoch in range(_EPOCHS)]
    return [(x.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for x in made]
