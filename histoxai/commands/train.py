"""Networks: `train-cls`, `train-seg`.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histoxai import flags, registry, settings, terminal
from histoxai.tables import train as tables

Augment = Annotated[
    str,
    typer.Option(
        help="none, light, strong, or some of flips, rotations, colour, hed, blur, erase; strengths as hed=0.1."
    ),
]


def train_cls(
    patches: Annotated[Path, typer.Argument(help="Store made by `augment`.")],
    output: flags.Output,
    arch: Annotated[str, typer.Option(help=", ".join(registry.names("classifier")) + ".")] = settings.TrainCls.arch,
    epochs: Annotated[int, typer.Option(help="At most this many.")] = settings.TrainCls.epochs,
    batch_size: int = settings.TrainCls.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = settings.TrainCls.lr,
    patience: Annotated[int, typer.Option(help="Epochs without a lower validation loss.")] = settings.TrainCls.patience,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Train although splits share relatives; it goes on record.")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="Start from .safetensors, .pth or .pt.")] = None,
    freeze: Annotated[str | None, typer.Option(help="encoder: train the head alone.")] = settings.TrainCls.freeze,
    normalise: Annotated[
        str | None, typer.Option(help="none or imagenet, inside of the network [imagenet with --weights].")
    ] = settings.TrainCls.normalise,
    augment: Augment = "none",
    seed: flags.Seed = 0,
    device: flags.Device = "auto",
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Train a classifier; keep the weights with the lowest validation loss."""
    changes = flags.augmentation(augment)
    chosen = settings.TrainCls(
        *(epochs, batch_size, lr, patience, seed, device),
        augment=changes,
        arch=arch,
        allow_leakage=allow_leakage,
        weights=weights,
        freeze=freeze,
        normalise=normalise,
    )
    terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.train_cls import train_cls as stage

        summary = stage(patches, output, chosen, progress, force=force, dry_run=dry_run)
    terminal.show(summary, json, tables.accuracy)


def train_seg(
    patches: Annotated[Path, typer.Argument(help="Store with masks, made by `ingest` (PanNuke).")],
    output: flags.Output,
    arch: Annotated[
        str, typer.Option(help="unet, or smp:ARCHITECTURE/ENCODER such as smp:Unet/resnet18.")
    ] = settings.TrainSeg.arch,
    width: Annotated[int, typer.Option(help="Channels of the first U-Net block.")] = settings.TrainSeg.width,
    dice: Annotated[str, typer.Option(help="plain (the study's code) or squared (its text).")] = settings.TrainSeg.dice,
    loss: Annotated[
        str | None, typer.Option(help="bce-dice, focal-dice, dice, focal or bce [bce-dice].")
    ] = settings.TrainSeg.loss,
    gamma: Annotated[float | None, typer.Option(help="Of the focal losses [2].")] = settings.TrainSeg.gamma,
    epochs: Annotated[int, typer.Option(help="At most this many.")] = settings.TrainSeg.epochs,
    batch_size: int = settings.TrainSeg.batch_size,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = settings.TrainSeg.lr,
    patience: Annotated[int, typer.Option(help="Epochs without a lower validation loss.")] = settings.TrainSeg.patience,
    augment: Augment = "none",
    seed: flags.Seed = 0,
    device: flags.Device = "auto",
    threads: flags.Threads = None,
    quiet: flags.Quiet = False,
    force: flags.Force = False,
    dry_run: flags.DryRun = False,
    json: flags.Json = False,
) -> None:
    """Train the network that marks tumor and non-tumor nuclei."""
    changes = flags.augmentation(augment)
    chosen = settings.TrainSeg(
        *(epochs, batch_size, lr, patience, seed, device, changes),
        arch=arch,
        width=width,
        dice=dice,
        loss=loss,
        gamma=gamma,
    )
    terminal.use_threads(threads)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.train_seg import train_seg as stage

        summary = stage(patches, output, chosen, progress, force=force, dry_run=dry_run)
    terminal.show(summary, json, tables.segmentation)
