"""The part that both training stages share: ranks, resuming, checks before training, and who writes the outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from histoxai.core.errors import HistoxaiError, InputRefused, UsageError, as_histoxai_error, is_out_of_memory
from histoxai.core.progress import Progress
from histoxai.networks.run_folder import discard_run, run_state
from histoxai.networks.weights import finish
from histoxai.settings import Training, Work
from histoxai.split.split import TEST
from histoxai.store.patches import Patches
from histoxai.train.augmentation import augmenter
from histoxai.train.batches import normalises_over_batch
from histoxai.train.checkpoints import remove_checkpoints
from histoxai.train.dataset import PatchDataset
from histoxai.train.fabric import check_device, start_fabric
from histoxai.train.launcher import RerunStage
from histoxai.train.loop import TrainingInputs, TrainingResult, fit
from histoxai.train.lr_finder import find_learning_rate
from histoxai.train.outputs import Evaluation, result_facts, write_history
from histoxai.train.ranks import Ranks


@dataclass(frozen=True)
class TrainingTask:
    """One call of a training stage.

    command: `train-cls` or `train-seg`. output: the run folder. facts: `run.json` so far. rerun: what the ranks that
    this process launches run. evaluate: evaluates the trained network on a device, in rank 0, and writes what belongs
    to one command alone.
    """

    command: str
    output: Path
    settings: Training
    work: Work
    ranks: Ranks
    facts: dict[str, Any]
    inputs: TrainingInputs
    rerun: RerunStage
    evaluate: Callable[[torch.device], Evaluation]


def train(task: TrainingTask, progress: Progress) -> dict[str, Any] | None:
    """Train into the run folder unless that is finished; None: the caller summarises the run.

    Returns a summary after a dry run or a search for the learning rate, and an empty one in all ranks but the first.
    Raises UsageError or InputRefused before training where it could not succeed.
    """
    _check(task)
    if task.work.only == "check":
        return _dry_run(task)
    if task.work.only == "find-lr":
        with start_fabric(task.settings, task.ranks, task.rerun) as fabric:
            rate = find_learning_rate(task.inputs, task.settings, fabric, progress)
        return {"schema": "histoxai.find-lr/1", **rate}
    with start_fabric(task.settings, task.ranks, task.rerun) as fabric:
        _train(task, fabric, progress)
    if task.ranks.rank:
        return {}
    remove_checkpoints(task.output)
    return None


def _check(task: TrainingTask) -> None:
    check_device(task.settings, task.ranks)
    check_batch(task.inputs, task.settings, task.ranks, task.facts["arch"])
    if task.work.force and task.settings.resume == "required":
        raise UsageError("--force and --resume required: one at a time")
    if task.work.only == "find-lr" and task.ranks.world > 1:
        raise UsageError("--find-lr: is for one process; leave --devices out")


def _dry_run(task: TrainingTask) -> dict[str, Any]:
    state = "new" if task.work.force else _folder_state(task)
    return {} if task.ranks.rank else {"schema": f"histoxai.{task.command}/1", "dry_run": True, "state": state}


def _train(task: TrainingTask, fabric: Fabric, progress: Progress) -> None:
    state = fabric.broadcast(_prepare_folder(task) if task.ranks.rank == 0 else "")
    if isinstance(state, HistoxaiError):
        if task.ranks.rank == 0:
            raise state
        return  # rank 0 reports it
    if state != "finished":
        result = fit(task.inputs, task.settings, fabric, task.output, task.facts["identity"], progress)
        if task.ranks.rank == 0:
            _write(task, result, fabric.device)


def _write(task: TrainingTask, result: TrainingResult, device: torch.device) -> None:
    model = task.inputs.model.eval()
    evaluation = task.evaluate(device)
    write_history(task.output, result.history)
    finish(task.output, {**task.facts, **result_facts(result, evaluation, task.ranks)}, model)


def _folder_state(task: TrainingTask) -> str:
    state = run_state(task.output, task.facts["identity"], task.command)
    if task.settings.resume == "required" and state == "new":
        raise InputRefused(f"--resume required: {task.output} holds no run to go on with")
    return state


def _prepare_folder(task: TrainingTask) -> str | HistoxaiError:
    """Discard the run folder if --force was given; return its state, or the error for rank 0 to raise."""
    try:
        if task.work.force:
            discard_run(task.output)
        return _folder_state(task)
    except (HistoxaiError, OSError) as error:
        return as_histoxai_error(error) or HistoxaiError(str(error))


def split_datasets(
    patches: Patches, settings: Training, masks: bool, balanced: bool = False
) -> tuple[PatchDataset, PatchDataset]:
    """Return the patches of the train split, with augmentation, and those of the validation split.

    With `overfit_batches` both are the same few. Raises InputRefused where there are no such splits.
    """
    rows = {split: patches.rows(split) for split in ("train", "validation")}
    train = PatchDataset(patches, rows["train"], masks, augmenter(settings.augment, settings.seed), balanced)
    if settings.overfit_batches is not None:
        train = train.first(settings.seed, settings.overfit_batches * settings.batch_size)
        rows["validation"] = train.rows
    return train, PatchDataset(patches, rows["validation"], masks)


def evaluation_split(patches: Patches) -> str:
    """Return the split on which a trained network is evaluated: test, or validation where there is none."""
    return "test" if (patches.split == TEST).any() else "validation"


def check_batch(inputs: TrainingInputs, settings: Training, ranks: Ranks, arch: str) -> None:
    """Check that every rank can make its smallest forward pass.

    Raises UsageError where there are more ranks than patches of a batch, InputRefused where the network cannot be
    trained on so few.
    """
    if settings.batch_size < ranks.world:
        raise UsageError(
            f"--batch-size {settings.batch_size}: is shared by {ranks.world} processes, and each needs a patch"
        )
    least = min(settings.batch_size, len(inputs.train)) // ranks.world
    # Layers that normalise over the batch may get a single value; decoders restrict the patch size as well.
    if (least == 1 and normalises_over_batch(inputs.model)) or arch.startswith("smp:"):
        try_pass(inputs.model, least, inputs.train.size, arch)


def try_pass(model: nn.Module, n: int, size: tuple[int, int], arch: str) -> None:
    """Make one training pass of a copy of the network on n blank patches of (height, width) px.

    Raises InputRefused where the network cannot make it.
    """
    copied = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            copied(torch.zeros(n, 3, *size))
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise InputRefused(
            f"--arch {arch}: cannot be trained on patches of {size[1]} x {size[0]} px with {n} in a pass of each "
            f"process ({(str(error).splitlines() or ['no reason given'])[0][:120]}); use a larger --batch-size, or "
            "another --arch"
        ) from error
