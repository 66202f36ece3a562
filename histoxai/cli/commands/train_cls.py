"""`histoxai train-cls`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables import train as tables


@options.training(
    settings.TrainCls,
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
    work = terminal.with_threads(work, settings.devices or 1)
    with display(quiet) as progress:
        from histoxai.stages.train_cls import train_cls_folds as stage

        summary = stage(patches, output, settings, progress, work)
    terminal.show_training(summary, json, tables.accuracy)
