"""train-seg: nuclei.zarr -> seg/, a run folder with a segmenter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai import registry
from histoxai.errors import InputRefused, is_out_of_memory
from histoxai.models.batches import Source, forward, pick_device
from histoxai.models.checkpoint import build, finish
from histoxai.models.fit import Job, fit, forget
from histoxai.models.losses import segmentation_loss
from histoxai.models.records import training_facts, write_history
from histoxai.models.runs import Run, discard_run, match, open_run
from histoxai.models.unet import soft_iou
from histoxai.places import require_local
from histoxai.progress import Progress
from histoxai.provenance import keep_apart, keyed_seed
from histoxai.settings import TrainSeg
from histoxai.store.patches import TARGETS, Patches
from histoxai.store.schema import MASKS
from histoxai.transforms.augmentation import augmenter

_MICRO_BATCH = 16


def train_seg(
    source: Path,
    output: Path,
    settings: TrainSeg,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train on the train split (PanNuke's folds 1 and 2), stop on and measure on validation (fold 3).

    Raises InputRefused where the store has no masks or no such splits, SettingsDiffer where the output was
    made with other settings.
    """
    require_local(output, "run folders")
    registry.resolve_name("segmenter", settings.arch)
    keep_apart(output, source)
    patches = Patches(source)
    if not patches.has_targets:
        raise InputRefused(f"{source}: its patches have no masks; ingest a source with masks (PanNuke)")
    rows = {s: patches.rows(s) for s in ("train", "validation")}
    device = pick_device(settings.device)
    recipe = {"width": settings.width} if settings.arch == "unet" else {}
    facts = training_facts("segmenter", settings.arch, recipe, settings, device, patches, output)
    torch.manual_seed(keyed_seed(settings.seed, "init"))
    model = build(facts)
    if settings.arch != "unet":
        _try(model, patches.size, settings)
    if dry_run:
        state = "new" if force else match(output, facts["identity"], "train-seg")
        return {"schema": "histoxai.train-seg/1", "dry_run": True, "state": state}
    if force:
        discard_run(output)
    if match(output, facts["identity"], "train-seg") != "finished":
        job = Job(
            model,
            segmentation_loss(settings.loss or "bce-dice", settings.dice, settings.gamma),
            soft_iou,
            "soft_iou",
            Source(patches, rows["train"], masks=True, augment=augmenter(settings.augment, settings.seed)),
            Source(patches, rows["validation"], masks=True),
        )
        history, best = fit(job, settings, device, output, facts["identity"], progress)
        job.model.eval()
        write_history(output, history)
        metrics = _overlap(job.model, patches, rows["validation"], device)
        finish(
            output,
            {**facts, "best_epoch": best, "epochs": len(history), "metrics": {"masks": metrics}},
            job.model,
        )
    forget(output)
    return _summary(open_run(output, "segmenter"), output)


def _try(model: torch.nn.Module, size: tuple[int, int], settings: TrainSeg) -> None:
    # one pass as training makes it, before hours of it: some decoders normalise over batch and places together
    copied = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            found = copied(torch.zeros(settings.batch_size, 3, *size))
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise InputRefused(
            f"--arch {settings.arch}: cannot be trained on patches of {size[1]} x {size[0]} px with --batch-size "
            f"{settings.batch_size} ({(str(error).splitlines() or ['no reason given'])[0][:120]}); try a larger "
            "--batch-size, or smp:Unet/resnet18"
        ) from error
    assert found.shape[1:] == (2, *size)


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
    kept = ("arch", "best_epoch", "epochs", "mpp", "size")
    return {
        "schema": "histoxai.train-seg/1",
        "output": str(output),
        "digest": run.digest,
        **{k: run.facts[k] for k in kept},
        **run.facts["metrics"],
    }
