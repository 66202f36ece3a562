"""`histoxai train-cls`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables import train as tables
from histoxai.core.errors import UsageError
from histoxai.core.progress import Silent


@options.verb(
    settings.TrainCls,
    work=("threads", "force"),
    modes=("find-lr", "check"),
    examples=(
        "histoxai train-cls balanced.zarr -o cls/",
        "histoxai train-cls balanced.zarr -o cls/ --arch resnet18 --augment light --schedule cosine",
    ),
)
def train_cls(
    patches: Annotated[list[Path], options.argument("Store made by `augment`; a run for each of several.")],
    output: options.Output,
    settings: settings.TrainCls,
    work: settings.Work,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train a classifier; keep the weights with the lowest validation loss."""
    terminal.with_threads(work, settings.devices or 1)
    how = {"force": work.force, "find_lr": work.only == "find-lr"}
    dry_run = work.only == "check"
    with display(quiet) as progress:
        from histoxai.stages.train_cls import train_cls as stage
        from histoxai.train.cross_validation import check_folds, pooled
        from histoxai.train.ranks import placement

        if len(patches) == 1:
            summary = stage(patches[0], output, settings, progress, dry_run=dry_run, **how)
        else:
            folds = check_folds(patches, output, placement(settings.devices, settings.nodes))
            if settings.resume == "required" and not any(place.exists() for _, place in folds):
                raise UsageError(f"--resume required: {output} holds no run to go on with")
            each = replace(settings, resume="auto")
            if not (dry_run or how["find_lr"]):  # what is refused is refused before hours of training
                for store, place in folds:
                    stage(store, place, each, Silent(), force=work.force, dry_run=True)
            runs = []
            for store, place in folds[:1] if how["find_lr"] else folds:
                progress.say(f"{store} -> {place}")
                runs.append(stage(store, place, each, progress, dry_run=dry_run, **how))
            # else a dry run, a search for the learning rate, or a process that is not the first
            finished = all("accuracy" in run for run in runs)
            summary = pooled(output, [store for store, _ in folds], runs) if finished else runs[0]
    terminal.show_training(summary, json, tables.accuracy)
