"""What both training stages do around the loop: processes, resuming, the trial pass, and who writes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histoxai.core.errors import HistoxaiError, InputRefused, UsageError, as_histoxai_error, is_out_of_memory
from histoxai.core.progress import Progress
from histoxai.networks.inference import Source
from histoxai.networks.run_folder import discard_run, match
from histoxai.settings import Training
from histoxai.split.split import TEST
from histoxai.store.patches import Patches
from histoxai.train.augmentation import augmenter
from histoxai.train.checkpoints import forget
from histoxai.train.fabric import check_device, engine
from histoxai.train.launcher import Again
from histoxai.train.loop import Fitted, Job, fit, normalises_over_batch
from histoxai.train.lr_finder import find_rate
from histoxai.train.ranks import Placement


@dataclass(frozen=True)
class Wanted:
    """What a training command was asked for: settings, where to write, and what else than training there is to do."""

    command: str
    output: Path
    settings: Training
    force: bool = False
    dry_run: bool = False
    find_lr: bool = False


def train(
    wanted: Wanted,
    place: Placement,
    facts: dict[str, Any],
    job: Job,
    again: Again,
    conclude: Callable[[Fitted, torch.device], None],
    progress: Progress,
) -> dict[str, Any] | None:
    """Train into the run folder, unless that is done.

    facts: `run.json` so far. job: what to train; again: what further processes of ours run; conclude: writes the
    finished run, in the first process alone. Returns what there is to say instead of the run's summary: after a dry
    run, a search for the learning rate, or in a process that is not the first. Raises UsageError, InputRefused.
    """
    settings, schema = wanted.settings, f"histoxai.{wanted.command}/1"
    check_device(settings, place)
    check_batch(job, settings, place, facts["arch"])
    if wanted.force and settings.resume == "required":
        raise UsageError("--force and --resume required: one at a time")
    if wanted.dry_run:
        state = "new" if wanted.force else _state(wanted, facts)
        return {} if place.rank else {"schema": schema, "dry_run": True, "state": state}
    if wanted.find_lr:
        if place.world > 1:
            raise UsageError("--find-lr: is for one process; leave --devices out")
        with engine(settings, place, again) as fabric:
            return {"schema": "histoxai.find-lr/1", **find_rate(job, settings, fabric, progress)}
    with engine(settings, place, again) as fabric:
        state = fabric.broadcast(_begun(wanted, facts) if place.rank == 0 else "")
        if isinstance(state, HistoxaiError):
            if place.rank:
                return {}
            raise state
        if state != "finished":
            fitted = fit(job, settings, fabric, wanted.output, facts["identity"], progress)
            if place.rank == 0:
                job.model.eval()
                conclude(fitted, fabric.device)
    if place.rank:
        return {}
    forget(wanted.output)
    return None


def _state(wanted: Wanted, facts: dict[str, Any]) -> str:
    state = match(wanted.output, facts["identity"], wanted.command)
    if wanted.settings.resume == "required" and state == "new":
        raise InputRefused(f"--resume required: {wanted.output} holds no run to go on with")
    return state


def _begun(wanted: Wanted, facts: dict[str, Any]) -> str | HistoxaiError:
    # what the first process finds; an error is for it to raise, and for the others to end quietly
    try:
        if wanted.force:
            discard_run(wanted.output)
        return _state(wanted, facts)
    except (HistoxaiError, OSError) as error:
        return as_histoxai_error(error) or HistoxaiError(str(error))


def sources(patches: Patches, settings: Training, masks: bool, balanced: bool = False) -> tuple[Source, Source]:
    """What a training reads: patches of the train split, augmented, and of validation.

    With `overfit_batches` both are the same few. Raises InputRefused where there are no such splits.
    """
    rows = {split: patches.rows(split) for split in ("train", "validation")}
    train = Source(patches, rows["train"], masks, augmenter(settings.augment, settings.seed), balanced)
    if settings.overfit_batches is not None:
        train = train.first(settings.seed, settings.overfit_batches * settings.batch_size)
        rows["validation"] = train.rows
    return train, Source(patches, rows["validation"], masks)


def measured_split(patches: Patches) -> str:
    """The split that a trained network is measured on: test, or validation where there is none."""
    return "test" if (patches.split == TEST).any() else "validation"


def training_record(fitted: Fitted, place: Placement) -> dict[str, Any]:
    """For `run.json`: how long it took, and with how many processes."""
    pace = fitted.patches_per_second
    return {
        "seconds": round(fitted.seconds, 1),
        "processes": place.world,
        "patches_per_second": None if pace is None else round(pace, 1),
    }


def check_batch(job: Job, settings: Training, place: Placement, arch: str) -> None:
    """See that the smallest pass of a process can be made.

    Raises UsageError where there are more processes than patches of a batch, InputRefused where the network cannot be
    trained on so few.
    """
    if settings.batch_size < place.world:
        raise UsageError(
            f"--batch-size {settings.batch_size}: is shared by {place.world} processes, and each needs a patch"
        )
    least = min(settings.batch_size, len(job.train)) // place.world
    # Layers that normalise over the batch may find one value alone; decoders have demands on the size as well.
    if (least == 1 and normalises_over_batch(job.model)) or arch.startswith("smp:"):
        try_pass(job.model, least, job.train.size, arch)


def try_pass(model: nn.Module, n: int, size: tuple[int, int], arch: str) -> None:
    """One pass as training makes it, of a copy and without data, before hours of it.

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
