"""`histoxai predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.progress_display import display


@options.sharded(
    settings.Predict,
    examples=(
        "histoxai predict patches.zarr --model cls/ -o preds.zarr",
        "histoxai predict patches.zarr --model cls/ -o preds.zarr --embeddings --workers 2",
    ),
)
def predict(
    patches: Annotated[Path, options.argument("Any store of patches; they need no labels.")],
    model: Annotated[Path, options.path_option("Run folder of `train-cls`.", metavar="DIR")],
    output: options.Output,
    settings: settings.Predict,
    work: settings.Work,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Write logits, the predicted class and its probability of every patch."""
    work = terminal.with_threads(work)
    with display(quiet or work.prints_shards) as progress:
        from histoxai.stages.predict import predict as stage

        summary = stage(patches, model, output, settings, progress, work)
    terminal.show_work(summary, work.only, json)
