"""train-seg: nuclei.zarr -> seg/, a run folder with a segmenter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import registry
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress, Silent
from histoxai.core.provenance import keep_apart, keyed_seed
from histoxai.core.s3_paths import require_local
from histoxai.networks.inference import forward, pick_device
from histoxai.networks.run_folder import Run, open_run
from histoxai.networks.unet import soft_iou
from histoxai.networks.weights import build, finish
from histoxai.settings import TrainSeg
from histoxai.store.patches import TARGETS, Patches
from histoxai.store.schema import MASKS
from histoxai.train.loop import Fitted, Job
from histoxai.train.losses import segmentation_loss
from histoxai.train.outputs import training_facts, write_history
from histoxai.train.ranks import Placement, placement
from histoxai.train.task import Wanted, measured_split, sources, train, training_record

_MICRO_BATCH = 16


def train_seg(
    source: Path,
    output: Path,
    settings: TrainSeg,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
    find_lr: bool = False,
) -> dict[str, Any]:
    """Train on the train split (PanNuke's folds 1 and 2), stop on validation (fold 3), measure there or on test.

    Raises InputRefused where the store has no masks or no such splits, SettingsDiffer where the output was
    made with other settings. Empty in a process that is not the first of several.
    """
    require_local(output, "run folders")
    registry.resolve_name("segmenter", settings.arch)
    keep_apart(output, source)
    place = placement(settings.devices, settings.nodes)
    if place.rank:
        progress = Silent()
    patches = Patches(source)
    if not patches.has_targets:
        raise InputRefused(f"{source}: its patches have no masks; ingest a source with masks (PanNuke)")
    device = pick_device(settings.device, precision=settings.precision)
    recipe = {"width": settings.width} if settings.arch == "unet" else {}
    facts = training_facts("segmenter", settings.arch, recipe, settings, device, patches, output)
    torch.manual_seed(keyed_seed(settings.seed, "init"))
    model = build(facts)
    said = train(
        Wanted("train-seg", output, settings, force, dry_run, find_lr),
        place,
        facts,
        _job(model, patches, settings),
        partial(train_seg, source, output, settings, Silent(), force=force),
        partial(_conclude, output, facts, model, patches, place),
        progress,
    )
    return _summary(open_run(output, "segmenter"), output) if said is None else said


def _job(model: torch.nn.Module, patches: Patches, settings: TrainSeg) -> Job:
    train, validation = sources(patches, settings, masks=True)
    return Job(
        model,
        segmentation_loss(settings.loss or "bce-dice", settings.dice, settings.gamma),
        soft_iou,
        "soft_iou",
        train,
        validation,
    )


def _conclude(
    output: Path,
    facts: dict[str, Any],
    model: torch.nn.Module,
    patches: Patches,
    place: Placement,
    fitted: Fitted,
    device: torch.device,
) -> None:
    write_history(output, fitted.history)
    split = measured_split(patches)
    found = {
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "split": split,
        "metrics": {"masks": _overlap(model, patches, patches.rows(split), device)},
        "training": training_record(fitted, place),
    }
    finish(output, {**facts, **found}, model)


def _overlap(
    model: torch.nn.Module, patches: Patches, rows: np.ndarray, device: torch.device
) -> dict[str, dict[str, float | None]]:
    # IoU and Dice of each plane at probability 0.5, pixels of all patches pooled
    both, either = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for k in range(0, len(rows), 64):
        part = rows[k : k + 64]
        found = forward(model, patches.read(part), _MICRO_BATCH, device) > 0
        truth = patches.read(part, TARGETS) > 0
        both += (found & truth).sum(axis=(0, 2, 3))
        either += (found | truth).sum(axis=(0, 2, 3))
    table: dict[str, dict[str, float | None]] = {}
    for name, i, u in zip(MASKS, both.tolist(), either.tolist(), strict=True):
        table[name] = {"iou": i / u if u else None, "dice": 2 * i / (i + u) if u else None}
    return table


def _summary(run: Run, output: Path) -> dict[str, Any]:
    kept = ("arch", "best_epoch", "epochs", "split", "mpp", "size")
    return {
        "schema": "histoxai.train-seg/1",
        "output": str(output),
        "digest": run.digest,
        **{k: run.facts[k] for k in kept},
        **run.facts["metrics"],
        "training": run.facts["training"],
    }
