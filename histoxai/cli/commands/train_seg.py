"""`histoxai train-seg`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display
from histoxai.cli.tables import train as tables


@options.training(
    settings.TrainSeg,
    examples=(
        "histoxai train-seg nuclei.zarr -o seg/",
        "histoxai train-seg nuclei.zarr -o seg/ --width 16 --batch-size 4 --epochs 30 --schedule cosine",
    ),
)
def train_seg(
    patches: Annotated[Path, options.argument("Store with masks, made by `ingest` (PanNuke).")],
    output: options.Output,
    settings: settings.TrainSeg,
    work: settings.Work,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train the network that marks tumor and non-tumor nuclei."""
    work = terminal.with_threads(work, settings.devices or 1)
    with display(quiet) as progress:
        from histoxai.stages.train_seg import train_seg as stage

        summary = stage(patches, output, settings, progress, work)
    terminal.show_training(summary, json, tables.segmentation)
