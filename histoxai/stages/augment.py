"""augment: patches.zarr -> balanced.zarr, split into train, validation and test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance, resources
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.ingest.descriptors import DESCRIPTORS, compute_descriptors
from histoxai.settings import Augment, Augmentation
from histoxai.split.leaks import find_components, require_column
from histoxai.split.rotation import quarter_turns, rotation_suffix
from histoxai.split.split import (
    TRAIN,
    SplitPlan,
    balance_train,
    hold_out,
    keep_all,
    plan_by_patch,
    split_folds,
    split_units,
)
from histoxai.store.create import create_or_match
from histoxai.store.jobs.runner import fill
from histoxai.store.patches import IMAGES, TARGETS, Copies, Patches, image_item
from histoxai.store.schema import schema
from histoxai.store.storage.files import write_atomically


def augment(
    source: Path,
    output: Path | None,
    settings: Augment,
    progress: Progress,
    *,
    force: bool = False,
    verify: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Split, rotate and balance a patch store; `output` None plans without writing.

    One with masks and no classes is split alone. Raises InputRefused where the store has neither, was augmented
    before, or cannot be split.
    """
    if output is not None:
        provenance.keep_apart(output, source)
    patches = Patches(source)
    _check(patches, settings)
    plan = make_plan(patches, settings)
    for note in plan.notes:
        progress.warn(note)
    if plan.off is not None:
        progress.say(f"each class's share of each split is within {plan.off:.1%} of what it should be")
    if settings.split_by != "source" and patches.split.any():
        progress.say(f"{source} has a split of its own, not used here; --split-by source keeps it")
    if output is not None:
        resources.keep_freed_memory()
        _write(patches, output, settings, plan, progress, force, verify, threads)
    return {
        "schema": "histoxai.augment/1",
        "output": None if output is None else str(output),
        "split_by": settings.split_by,
        "table": plan.table,
        "notes": plan.notes,
        "largest_deviation": plan.off,
    }


def make_plan(patches: Patches, settings: Augment) -> SplitPlan:
    """Which copies of which patches go into which split."""
    (label, classes), fractions, seed = _classes(patches), settings.fractions, settings.seed
    if settings.split_by == "patch":
        return plan_by_patch(label, classes, fractions, seed)

    def planned(split: np.ndarray, aim: tuple[float, ...] | None) -> SplitPlan:
        if patches.classes:
            return balance_train(label, split, classes, aim, seed)
        return keep_all(label, split, classes, aim)

    if settings.split_by == "source":
        return planned(patches.split, None)
    family, notes = find_components(patches, settings.split_by, settings.near)
    n, aim = len(classes), fractions
    if settings.folds is not None and settings.fold is not None:
        split = split_folds(label, family, n, settings.folds, settings.fold, seed)
        aim = ((settings.folds - 2) / settings.folds, 1 / settings.folds, 1 / settings.folds)
    elif settings.hold_out is not None:
        split = _held_out(patches, settings, family, notes)
    else:
        split = split_units(label, family, n, fractions, seed)
    plan = planned(split, None if settings.hold_out else aim)
    if settings.split_by == "scan" and "patient" in patches.extras():
        notes += _parted_patients(patches.store.read("patient"), split)
    return replace(plan, notes=[*notes, *plan.notes])


def _classes(patches: Patches) -> tuple[np.ndarray, list[str]]:
    # where there are none, all patches are of one
    if patches.classes:
        return patches.label, patches.classes
    return np.zeros(len(patches), np.int64), ["all"]


def _held_out(patches: Patches, settings: Augment, family: np.ndarray, notes: list[str]) -> np.ndarray:
    (label, classes), site, wanted = _classes(patches), require_column(patches, "site"), settings.hold_out or ()
    if unknown := [w for w in wanted if w not in site]:
        sites = ", ".join(sorted(set(site[site != ""].tolist())))
        raise InputRefused(f"--hold-out {unknown[0]}: the sites of {patches.path} are {sites}")
    there, split = site != "", np.zeros(len(site), np.uint8)
    held = np.isin(site, wanted)
    split[there] = hold_out(label[there], family[there], held[there], len(classes), settings.fractions, settings.seed)
    if left := int((there & (split == 0)).sum()):
        notes.append(f"{left} patches of other sites are left out: they have relatives at a site that is held out")
    if nowhere := int((~there).sum()):
        notes.append(f"{nowhere} patches are left out: nobody knows their site, which may be one that is held out")
    if not (split == TRAIN).any():
        raise InputRefused(f"--hold-out {','.join(wanted)}: leaves no patch to train on; hold out fewer sites")
    return split


def _parted_patients(patient: np.ndarray, split: np.ndarray) -> list[str]:
    sides: dict[str, set[int]] = {}
    for name, side in zip(patient.tolist(), split.tolist(), strict=True):
        sides.setdefault(name, set()).add(side)
    parted = [name for name, of in sides.items() if name and len(of - {0}) > 1]
    if not parted:
        return []
    return [f"{len(parted)} patients are on several sides, since their scans were split; --split-by group keeps them"]


def _check(patches: Patches, settings: Augment) -> None:
    if not patches.classes and not patches.has_targets:
        raise InputRefused(f"{patches.path}: its patches have neither classes nor masks; there is nothing to train on")
    if not patches.classes and settings.split_by == "patch":
        raise InputRefused(f"{patches.path}: --split-by patch balances classes, and it has none; use --split-by group")
    if patches.store.has("rotation"):
        raise InputRefused(f"{patches.path}: was augmented already; start from the store that `ingest` made")
    if patches.size[0] != patches.size[1]:
        h, w = patches.size
        raise InputRefused(f"{patches.path}: patches of {w} x {h} px cannot be turned; tile them square")
    if settings.split_by == "source" and not patches.split.any():
        raise InputRefused(f"{patches.path}: the source gave no partitions; use --split-by group")


def _write(
    patches: Patches,
    output: Path,
    settings: Augment,
    plan: SplitPlan,
    progress: Progress,
    force: bool,
    verify: bool,
    threads: int,
) -> None:
    label = patches.label[plan.parent]
    item = image_item(len(label), patches.size, settings.shard_size, patches.has_targets, DESCRIPTORS)
    chosen = {k: v for k, v in provenance.plain(settings).items() if k != "seed"}
    store = create_or_match(
        output,
        provenance.header(
            schema("patches"),
            chosen,
            settings.seed,
            {"patches": provenance.parent(patches.path, output, patches.digest)},
            table=plan.table,
            notes=plan.notes,
        ),
        {
            "label": label.astype(np.int16),
            "group": patches.group[plan.parent],
            **{name: patches.store.read(name)[plan.parent] for name in patches.extras()},
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
        # a copy's orbit is its parent's; with stains normalised, of the pixels before
        kept, fresh = patches.read(parents, "identity"), compute_descriptors(made[IMAGES], threads)
        kept[turns > 0, :2] = fresh["identity"][turns > 0, :2]
        return made | fresh | {"identity": kept}

    fill(store, item, compute, progress, verify=verify)


def _ids(patches: Patches, plan: SplitPlan) -> np.ndarray:
    turned = [rotation_suffix(int(t)) for t in plan.rotation]
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
    from histoxai.report.split_preview import draw_preview  # and with it matplotlib, which nothing else here needs

    patches = Patches(source)
    if patches.store.has("rotation"):
        copies, header = _stored(patches), patches.store.header
        table, split_by, notes = header.get("table"), header["settings"].get("split_by"), []
    else:
        _check(patches, settings)
        plan = make_plan(patches, settings)
        copies, table, split_by, notes = _planned(patches, plan), plan.table, settings.split_by, plan.notes
    drawn = draw_preview(source.name, f"split by {split_by}", _classes(patches)[1], copies, changes, settings.seed)
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
    label = _classes(patches)[0]
    return Copies(parent, rotation, patches.split, label, patches.patch_id, lambda row: patches.read([row])[0])


def _planned(patches: Patches, plan: SplitPlan) -> Copies:
    def image(row: int) -> np.ndarray:
        return np.ascontiguousarray(quarter_turns(patches.read([plan.parent[row]])[0], int(plan.rotation[row])))

    label = _classes(patches)[0][plan.parent]
    return Copies(plan.parent, plan.rotation, plan.split, label, _ids(patches, plan), image)
