"""augment: patches.zarr -> balanced.zarr, split into train, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from histoxai import provenance
from histoxai.errors import InputRefused
from histoxai.progress import Progress
from histoxai.settings import Augment, Augmentation
from histoxai.store.create import create_or_match
from histoxai.store.files import write_atomically
from histoxai.store.patches import IMAGES, TARGETS, Copies, Patches, image_item
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


def preview(
    source: Path, output: Path, settings: Augment, changes: Augmentation | None, progress: Progress
) -> dict[str, Any]:
    """Draw a few patches of each class and split, their rotated copies, and what training would make of them.

    source: a store that `augment` made is shown as it is, any other as `settings` would split it. changes: shown for
    the first epochs of training patches. Patches are chosen by hash of their row. Raises InputRefused as `augment`,
    and for an output inside the store.
    """
    if output.is_dir() or output.resolve().is_relative_to(source.resolve()):
        raise InputRefused(f"{output}: is a folder, or lies in the store; name a .png file outside of it")
    from histoxai.plots.preview import draw_preview  # and with it matplotlib, which nothing else here needs

    patches = Patches(source)
    if "rotation" in patches.store.group:
        copies, header = _stored(patches), patches.store.header
        table, split_by, notes = header.get("table"), header["settings"].get("split_by"), []
    else:
        _check(patches, settings)
        plan = make_plan(patches, settings)
        copies, table, split_by, notes = _planned(patches, plan), plan.table, settings.split_by, plan.notes
    drawn = draw_preview(source.name, f"split by {split_by}", patches.classes, copies, changes, settings.seed)
    write_atomically(output, drawn)
    progress.say(f"{output}: written")
    return {
        "schema": "histoxai.augment/1",
        "output": None,
        "preview": str(output),
        "split_by": split_by,
        "table": table,
        "notes": notes,
    }


def _stored(patches: Patches) -> Copies:
    parent, rotation = (patches.store.read(name) for name in ("parent", "rotation"))
    return Copies(parent, rotation, patches.split, patches.label, patches.patch_id, lambda row: patches.read([row])[0])


def _planned(patches: Patches, plan: Plan) -> Copies:
    def image(row: int) -> np.ndarray:
        return np.ascontiguousarray(quarter_turns(patches.read([plan.parent[row]])[0], int(plan.rotation[row])))

    return Copies(plan.parent, plan.rotation, plan.split, patches.label[plan.parent], _ids(patches, plan), image)
