"""Options that `train-cls` and `train-seg` share, written once, and what both print."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from histoxai.cli import options, terminal
from histoxai.cli.tables import train as tables
from histoxai.settings import Training


def _options(
    epochs: Annotated[int, typer.Option(help="At most this many.")],
    batch_size: Annotated[int, typer.Option(help="Patches of one pass, of all devices together.")],
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")],
    patience: Annotated[int, typer.Option(help="Epochs without a lower validation loss.")],
    augment: Annotated[
        str,
        typer.Option(
            help="none, light, strong, or some of flips, rotations, colour, hed, blur, erase; strengths as hed=0.1."
        ),
    ],
    schedule: Annotated[str, typer.Option(help="Of the rate: constant, cosine, or plateau (halves it).")],
    warmup: Annotated[float, typer.Option(help="Epochs in which the rate grows to --lr.")],
    weight_decay: Annotated[float, typer.Option(help="AdamW's; 0 is Adam.")],
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")],
    accumulate: Annotated[int, typer.Option(help="Passes that make one step.")],
    ema: Annotated[float | None, typer.Option(help="Judge and keep averaged weights with this decay, such as 0.999.")],
    overfit_batches: Annotated[
        int | None, typer.Option(help="Train and validate on this many batches: can the network learn at all?")
    ],
    precision: Annotated[str, typer.Option(help="fp32, bf16, or on a GPU tf32 and fp16.")],
    compile: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")],
    deterministic: Annotated[bool, typer.Option("--deterministic", help="On a GPU: kernels that repeat themselves.")],
    devices: Annotated[int | None, typer.Option(help="Processes on this node, each with a GPU or --threads [1].")],
    nodes: Annotated[int | None, typer.Option(help="Nodes, under srun or torchrun, which know it [1].")],
    checkpoint_minutes: Annotated[float, typer.Option(help="Longest time without a checkpoint.")],
    resume: Annotated[str, typer.Option(help="auto, or required: never begin anew.")],
    seed: options.Seed,
    device: options.Device,
) -> None:
    """Signature of what both commands take."""


def with_training_options(kind: type[Training]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, in place of its last parameter `chosen`, the options of `_options` with the defaults of `kind`.

    The command is handed `chosen`: their values by name, ready for `kind`.
    """
    defaults = {f.name: f.default for f in fields(kind)} | {"augment": "none"}
    hints = get_type_hints(_options, include_extras=True)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
        for name in inspect.signature(_options).parameters
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def called(**values: Any) -> None:
            chosen = {p.name: values.pop(p.name) for p in shared}
            chosen["augment"] = options.augmentation(chosen["augment"])
            command(**values, chosen=chosen)

        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name != "chosen"]
        # in `--help`: what the command is about, then the shared options, then those of all commands
        first = [p for p in kept if p.name not in _LAST]
        last = [p for p in kept if p.name in _LAST]
        seen: Any = called  # by Typer, as if it had been written out
        seen.__signature__ = inspect.Signature([*first, *shared, *last])
        seen.__annotations__ = {p.name: p.annotation for p in seen.__signature__.parameters.values()}
        del seen.__wrapped__
        return called

    return decorate


_LAST = ("find_lr", "threads", "quiet", "force", "dry_run", "json")


_TABLES = {"histoxai.find-lr/1": tables.rates, "histoxai.train-cls-folds/1": tables.folds}


def show(summary: dict[str, Any], json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    """A training's summary, a rate that was found, or what folds say together; nothing where there is none."""
    if summary:
        terminal.show(summary, json, _TABLES.get(summary["schema"], table))
