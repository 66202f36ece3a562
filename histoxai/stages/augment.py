"""augment: patches.zarr -> balanced.zarr, split into train, validation and test."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance, resources
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.ingest.descriptors import DESCRIPTORS, compute_descriptors
from histoxai.settings import Augment, Augmentation, Work
from histoxai.settings.base import recorded_options, with_omitted
from histoxai.split.leaks import find_components, require_column
from histoxai.split.rotation import rotation_suffix
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
from histoxai.stages.base import ShardedStage
from histoxai.store.jobs.runner import Producers
from histoxai.store.patches import IMAGES, TARGETS, Copies, Patches, image_item
from histoxai.store.schema import schema
from histoxai.store.shards import Item, Store
from histoxai.store.storage.files import write_atomically


def augment(source: Path, output: Path | None, settings: Augment, progress: Progress, work: Work) -> dict[str, Any]:
    """Split, rotate and balance a patch store; without `output`, or with `work.only`, plan without writing.

    A store with masks and no classes is split alone. Raises InputRefused where a store has neither, was augmented
    before, or cannot be split.
    """
    target = output if work.only is None else None
    if target is not None:
        provenance.keep_apart(target, source)
    patches = Patches(source)
    _require_splittable(patches, settings)
    plan = make_plan(patches, settings)
    for note in plan.notes:
        progress.warn(note)
    if plan.largest_deviation is not None:
        progress.say(f"each class's share of each split is within {plan.largest_deviation:.1%} of what it should be")
    if settings.split_by != "source" and patches.split.any():
        progress.say(f"{source} has a split of its own, not used here; --split-by source keeps it")
    if target is not None:
        resources.keep_freed_memory()
        stage = _Augment((patches, plan), target, settings, progress, work)
        stage.fill(partial(augment, source, target, settings))
    how = {"split_by": settings.split_by, "rotate": settings.rotate}
    summary = _summary(target, **how, table=plan.table, notes=plan.notes)
    return summary | {"largest_deviation": plan.largest_deviation}


def _summary(output: Path | None, **facts: Any) -> dict[str, Any]:
    return {"schema": "histoxai.augment/1", "output": None if output is None else str(output), **facts}


def make_plan(patches: Patches, settings: Augment) -> SplitPlan:
    """Return which copies of which patches get into which split."""
    label, classes = _classes(patches)
    if settings.split_by == "patch":
        return plan_by_patch(label, classes, settings.fractions, settings.seed, settings.rotate)
    notes: list[str] = []
    fractions: tuple[float, ...] | None
    if settings.split_by == "source":
        split, fractions = patches.split, None
    else:
        component, notes = find_components(patches, settings.split_by, settings.near)
        split, fractions = _split_components(patches, settings, component, notes)
    if settings.split_by == "scan" and "patient" in patches.extras():
        notes += _separated_patients(patches.store.read("patient"), split)
    if patches.classes:
        plan = balance_train(label, split, classes, fractions, settings.seed, settings.rotate)
    else:
        plan = keep_all(label, split, classes, fractions)
    return replace(plan, notes=[*notes, *plan.notes])


def _split_components(
    patches: Patches, settings: Augment, component: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """Return the split (n,) of each patch with whole components, and the fractions that it aims at."""
    label, classes = _classes(patches)
    folds, fold = settings.folds, settings.fold
    if folds is not None and fold is not None:
        split = split_folds(label, component, len(classes), folds, fold, settings.seed)
        return split, ((folds - 2) / folds, 1 / folds, 1 / folds)
    if settings.hold_out is not None:
        return _hold_out_sites(patches, settings, component, notes), None
    return split_units(label, component, len(classes), settings.fractions, settings.seed), settings.fractions


def _classes(patches: Patches) -> tuple[np.ndarray, list[str]]:
    """Return labels and class names; without classes all patches are of one class."""
    if patches.classes:
        return patches.label, patches.classes
    return np.zeros(len(patches), np.int64), ["all"]


def _hold_out_sites(patches: Patches, settings: Augment, component: np.ndarray, notes: list[str]) -> np.ndarray:
    label, classes = _classes(patches)
    site, names = require_column(patches, "site"), settings.hold_out or ()
    if unknown := [name for name in names if name not in site]:
        sites = ", ".join(sorted(set(site[site != ""].tolist())))
        raise InputRefused(f"--hold-out {unknown[0]}: the sites of {patches.path} are {sites}")
    known, split = site != "", np.zeros(len(site), np.uint8)
    held_out = np.isin(site, names)[known]
    fractions, seed = settings.fractions, settings.seed
    split[known] = hold_out(label[known], component[known], held_out, len(classes), fractions, seed)
    if related := int((known & (split == 0)).sum()):
        notes.append(f"{related} patches of other sites are left out: they have relatives at a site that is held out")
    if unknown_site := int((~known).sum()):
        notes.append(f"{unknown_site} patches are left out: nobody knows their site, which may be one that is held out")
    if not (split == TRAIN).any():
        raise InputRefused(f"--hold-out {','.join(names)}: leaves no patch to train on; hold out fewer sites")
    return split


def _separated_patients(patient: np.ndarray, split: np.ndarray) -> list[str]:
    splits_of: dict[str, set[int]] = {}
    for name, code in zip(patient.tolist(), split.tolist(), strict=True):
        splits_of.setdefault(name, set()).add(code)
    separated = [name for name, codes in splits_of.items() if name and len(codes - {0}) > 1]
    if not separated:
        return []
    count = len(separated)
    return [f"{count} patients are on several sides, since their scans were split; --split-by group keeps them"]


def _require_splittable(patches: Patches, settings: Augment) -> None:
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


class _Augment(ShardedStage):
    """Copies of patches: rotated images and targets with their descriptors, split and parents."""

    settings: Augment

    def __init__(
        self, planned: tuple[Patches, SplitPlan], output: Path, settings: Augment, progress: Progress, work: Work
    ) -> None:
        super().__init__(output, settings, progress, work)
        self.patches, self.plan = planned
        self.facts = {}  # the number of threads is no part of these records
        self.attributes = {"classes": self.patches.classes, "mpp": self.patches.mpp}

    def header(self) -> dict[str, Any]:
        settings, plan = self.settings, self.plan
        entries = {k: v for k, v in provenance.plain(recorded_options(settings)).items() if k != "seed"}
        parents = {"patches": provenance.parent(self.patches.path, self.output, self.patches.digest)}
        return provenance.header(schema("patches"), entries, settings.seed, parents, table=plan.table, notes=plan.notes)

    def index(self) -> dict[str, np.ndarray]:
        patches, plan = self.patches, self.plan
        return {
            "label": patches.label[plan.parent].astype(np.int16),
            "group": patches.group[plan.parent],
            **{name: patches.store.read(name)[plan.parent] for name in patches.extras()},
            "patch_id": _ids(patches, plan),
            "split": plan.split,
            "parent": plan.parent,
            "rotation": plan.rotation,
        }

    def items(self) -> list[Item]:
        patches = self.patches
        size = self.settings.shard_size
        return [image_item(len(self.plan.parent), patches.size, size, patches.has_targets, DESCRIPTORS)]

    def produce(self, store: Store) -> Producers:
        return {IMAGES: self._rows}

    def _rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        patches = self.patches
        parents, turns = self.plan.parent[start:stop], self.plan.rotation[start:stop]
        unique, position = np.unique(parents, return_inverse=True)
        rows = {IMAGES: _rotated(patches.read(unique), position, turns, (0, 1))}
        if patches.has_targets:
            rows[TARGETS] = _rotated(patches.read(unique, TARGETS), position, turns, (1, 2))
        descriptors = compute_descriptors(rows[IMAGES], self.work.threads)
        # A copy keeps its parent's rotation-invariant hash. With stains normalised, hashes are of the pixels before.
        identity = patches.read(parents, "identity")
        identity[turns > 0, :2] = descriptors["identity"][turns > 0, :2]
        return rows | descriptors | {"identity": identity}


def _rotated(images: np.ndarray, rows: np.ndarray, turns: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    return np.stack([np.rot90(images[r], t, axes) for r, t in zip(rows, turns, strict=True)])


def _ids(patches: Patches, plan: SplitPlan) -> np.ndarray:
    suffixes = [rotation_suffix(int(t)) for t in plan.rotation]
    return np.array([f"{patches.patch_id[r]}{s}" for r, s in zip(plan.parent, suffixes, strict=True)])


def preview(
    source: Path, output: Path, settings: Augment, changes: Augmentation | None, progress: Progress
) -> dict[str, Any]:
    """Draw a few patches of each class and split, their rotated copies, and how training would augment them.

    A store that `augment` made is shown as it is, any other as `settings` would split it. changes: training's
    augmentation, shown for the first epochs. Patches are selected by the hash of their row. Raises InputRefused as
    `augment` does, and for an output inside the store.
    """
    if output.is_dir() or output.resolve().is_relative_to(source.resolve()):
        raise InputRefused(f"{output}: is a folder, or lies in the store; name a .png file outside of it")
    from histoxai.report.split_preview import draw_preview  # imports matplotlib, which nothing else here needs

    patches = Patches(source)
    if patches.store.has("rotation"):
        copies, header = _stored_copies(patches), patches.store.header
        recorded = with_omitted(Augment, header["settings"])
        how = {"split_by": recorded.get("split_by"), "rotate": recorded["rotate"]}
        table, notes = header.get("table"), []
    else:
        _require_splittable(patches, settings)
        plan = make_plan(patches, settings)
        copies, table, notes = _planned_copies(patches, plan), plan.table, plan.notes
        how = {"split_by": settings.split_by, "rotate": settings.rotate}
    title, classes = f"split by {how['split_by']}", _classes(patches)[1]
    drawn = draw_preview(source.name, title, classes, copies, changes, settings.seed)
    write_atomically(output, drawn)
    progress.say(f"{output}: written")
    return _summary(None, preview=str(output), **how, table=table, notes=notes)


def _stored_copies(patches: Patches) -> Copies:
    parent, rotation = (patches.store.read(name) for name in ("parent", "rotation"))
    label = _classes(patches)[0]
    return Copies(parent, rotation, patches.split, label, patches.patch_id, lambda row: patches.read([row])[0])


def _planned_copies(patches: Patches, plan: SplitPlan) -> Copies:
    def image(row: int) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(patches.read([plan.parent[row]])[0], plan.rotation[row]))

    label = _classes(patches)[0][plan.parent]
    return Copies(plan.parent, plan.rotation, plan.split, label, _ids(patches, plan), image)
