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
from histoxai.networks.run_folder import open_run, training_summary
from histoxai.networks.unet import soft_iou
from histoxai.networks.weights import build
from histoxai.settings import TrainSeg, Work
from histoxai.store.patches import TARGETS, Patches, first_target_row
from histoxai.store.schema import MASKS
from histoxai.train.loop import TrainingInputs
from histoxai.train.losses import segmentation_loss
from histoxai.train.outputs import Evaluation, NetworkRecipe, training_facts
from histoxai.train.ranks import find_ranks
from histoxai.train.task import TrainingTask, evaluation_split, split_datasets, train

_MICRO_BATCH = 16
TUMOR, NON_TUMOR = 0, 1  # planes of targets
_READ = 64  # patches in memory at once


def train_seg(source: Path, output: Path, settings: TrainSeg, progress: Progress, work: Work) -> dict[str, Any]:
    """Train on the train split (PanNuke's folds 1 and 2), stop on validation (fold 3), evaluate there or on test.

    Raises InputRefused where the store has no masks or no such splits, SettingsDiffer where the output was made with
    other settings. The summary is empty in all ranks but the first.
    """
    require_local(output, "run folders")
    registry.resolve_name("segmenter", settings.arch)
    keep_apart(output, source)
    ranks = find_ranks(settings.devices, settings.nodes)
    patches = Patches(source)
    if not patches.has_targets:
        raise InputRefused(f"{source}: its patches have no masks; ingest a source with masks (PanNuke)")
    _require_targets(patches)
    device = pick_device(settings.device, ranks.local_rank, settings.precision)
    recipe = NetworkRecipe("segmenter", settings.arch, {"width": settings.width} if settings.has_width else {})
    facts = training_facts(recipe, settings, device.type, patches, output)
    torch.manual_seed(keyed_seed(settings.seed, "init"))
    model = build(facts)
    task = TrainingTask(
        command="train-seg",
        output=output,
        settings=settings,
        work=work,
        ranks=ranks,
        facts=facts,
        inputs=_inputs(model, patches, settings),
        rerun=partial(train_seg, source, output, settings, Silent(), Work(force=work.force)),
        evaluate=partial(_evaluate, model, patches),
    )
    early = train(task, Silent() if ranks.rank else progress)
    return training_summary(open_run(output, "segmenter"), "train-seg", output) if early is None else early


def _require_targets(patches: Patches) -> None:
    """Raise InputRefused where no training mask has a pixel of the tumor plane, unless only non-tumor was chosen."""
    rows, store = patches.rows("train"), patches.store
    if first_target_row(store, TUMOR, rows) is not None:
        return
    chosen = store.header["settings"].get("tumor")  # an augmented store does not say
    if not chosen and first_target_row(store, NON_TUMOR, rows) is not None:
        return
    raise InputRefused(
        f"{patches.path}: none of its {len(rows):,} training masks has a pixel of tumor, so nothing can be learned; "
        "ingest it again and choose values that occur with --tumor, --class-map or --mask-threshold"
    )


def _inputs(model: torch.nn.Module, patches: Patches, settings: TrainSeg) -> TrainingInputs:
    train, validation = split_datasets(patches, settings, masks=True)
    loss = segmentation_loss(settings.loss or "bce-dice", settings.dice, settings.gamma)
    return TrainingInputs(model, loss, soft_iou, "soft_iou", train, validation)


def _evaluate(model: torch.nn.Module, patches: Patches, device: torch.device) -> Evaluation:
    split = evaluation_split(patches)
    return Evaluation(split, {"masks": _overlap(model, patches, patches.rows(split), device)})


def _overlap(
    model: torch.nn.Module, patches: Patches, rows: np.ndarray, device: torch.device
) -> dict[str, dict[str, float | None]]:
    """Return IoU and Dice of each plane at probability 0.5, over the pixels of all patches; None without any."""
    both, either = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for k in range(0, len(rows), _READ):
        part = rows[k : k + _READ]
        predicted = forward(model, patches.read(part), _MICRO_BATCH, device) > 0
        truth = patches.read(part, TARGETS) > 0
        both += (predicted & truth).sum(axis=(0, 2, 3))
        either += (predicted | truth).sum(axis=(0, 2, 3))
    table: dict[str, dict[str, float | None]] = {}
    for name, i, u in zip(MASKS, both.tolist(), either.tolist(), strict=True):
        table[name] = {"iou": i / u if u else None, "dice": 2 * i / (i + u) if u else None}
    return table
