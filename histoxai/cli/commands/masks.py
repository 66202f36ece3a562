"""`histoxai masks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display


@options.sharded(
    settings.Masks,
    examples=(
        "histoxai masks balanced.zarr --model seg/ -o masks.zarr",
        "histoxai masks balanced.zarr --model seg/ -o masks.zarr --shard auto",
    ),
)
def masks(
    patches: Annotated[Path, options.argument("Store made by `augment`.")],
    model: Annotated[Path, options.path_option("Run folder of `train-seg`.", metavar="DIR")],
    output: options.Output,
    settings: settings.Masks,
    work: settings.Work,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write the probability of tumor and of non-tumor nuclei for every pixel of a split's patches."""
    work = terminal.with_threads(work)
    with display(quiet or work.prints_shards) as progress:
        from histoxai.stages.masks import masks as stage

        summary = stage(patches, model, output, settings, progress, work)
    terminal.show_work(summary, work.only, json)
