"""Networks: `train-cls`, `train-seg`.

Stages are imported inside the bodies, so that `--help` and `--version` load none of torch, zarr and numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from histoxai import settings
from histoxai.cli import options, terminal
from histoxai.cli.commands.shared import show, with_training_options
from histoxai.cli.tables import train as tables
from histoxai.core import registry

FindLr = Annotated[bool, typer.Option("--find-lr", help="Suggest a learning rate from a short run; write nothing.")]


@with_training_options(settings.TrainCls)
def train_cls(
    patches: Annotated[list[Path], typer.Argument(help="Store made by `augment`; several folds give a run each.")],
    output: options.Output,
    arch: Annotated[str, typer.Option(help=", ".join(registry.names("classifier")) + ".")] = settings.TrainCls.arch,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Train although splits share relatives; it goes on record.")
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="Start from .safetensors, .pth or .pt.")] = None,
    freeze: Annotated[str | None, typer.Option(help="encoder: train the head alone.")] = settings.TrainCls.freeze,
    normalise: Annotated[
        str | None, typer.Option(help="none or imagenet, inside of the network (imagenet with --weights).")
    ] = settings.TrainCls.normalise,
    class_weights: Annotated[
        str, typer.Option(help="Of the loss: none, or balanced (rare classes count more).")
    ] = settings.TrainCls.class_weights,
    sampling: Annotated[
        str, typer.Option(help="shuffled, or balanced: as many patches of each class an epoch.")
    ] = settings.TrainCls.sampling,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of each label that is spread over all classes.")
    ] = settings.TrainCls.label_smoothing,
    mixup: Annotated[
        float, typer.Option(help="Mix pairs of patches, with this alpha; 0 is off.")
    ] = settings.TrainCls.mixup,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Calibrate probabilities on the validation split at the end.")
    ] = False,
    find_lr: FindLr = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    *,
    chosen: dict[str, Any],
) -> None:
    """Train a classifier; keep the weights with the lowest validation loss."""
    asked = settings.TrainCls(
        **chosen,
        arch=arch,
        allow_leakage=allow_leakage,
        weights=weights,
        freeze=freeze,
        normalise=normalise,
        class_weights=class_weights,
        sampling=sampling,
        label_smoothing=label_smoothing,
        mixup=mixup,
        temperature=temperature,
    )
    terminal.use_threads(threads, asked.devices or 1)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.train_cls import train_cls_folds as stage

        summary = stage(patches, output, asked, progress, _work(force, dry_run, find_lr))
    show(summary, json, tables.accuracy)


@with_training_options(settings.TrainSeg)
def train_seg(
    patches: Annotated[Path, typer.Argument(help="Store with masks, made by `ingest` (PanNuke).")],
    output: options.Output,
    arch: Annotated[
        str, typer.Option(help="unet, or smp:ARCHITECTURE/ENCODER such as smp:Unet/resnet18.")
    ] = settings.TrainSeg.arch,
    width: Annotated[int, typer.Option(help="Channels of the first U-Net block.")] = settings.TrainSeg.width,
    dice: Annotated[str, typer.Option(help="plain (the study's code) or squared (its text).")] = settings.TrainSeg.dice,
    loss: Annotated[
        str | None, typer.Option(help="bce-dice, focal-dice, dice, focal or bce (bce-dice).")
    ] = settings.TrainSeg.loss,
    gamma: Annotated[float | None, typer.Option(help="Of the focal losses [2].")] = settings.TrainSeg.gamma,
    find_lr: FindLr = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    *,
    chosen: dict[str, Any],
) -> None:
    """Train the network that marks tumor and non-tumor nuclei."""
    asked = settings.TrainSeg(**chosen, arch=arch, width=width, dice=dice, loss=loss, gamma=gamma)
    terminal.use_threads(threads, asked.devices or 1)
    with terminal.progress(quiet) as progress:
        from histoxai.stages.train_seg import train_seg as stage

        summary = stage(patches, output, asked, progress, _work(force, dry_run, find_lr))
    show(summary, json, tables.segmentation)


def _work(force: bool, dry_run: bool, find_lr: bool) -> settings.Work:
    return settings.Work(force=force, only="check" if dry_run else "find-lr" if find_lr else None)
