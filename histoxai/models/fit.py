"""The one training loop: Lightning Fabric, Adam, early stopping on the validation loss, best weights kept.

While it runs, `last/` holds all that is needed to go on. Order and augmentation are keyed by (seed, epoch, patch_id)
and nothing else is random, so a run that was killed and resumed ends with the bytes of one that was not.
"""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import nn

from histoxai.errors import HistoxaiError
from histoxai.models.batches import Source, in_batches
from histoxai.models.checkpoint import save_tensors
from histoxai.progress import Progress
from histoxai.settings import Training
from histoxai.store.files import read_json, write_json

SAVE_SECONDS = 30.0
Outcome = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Job:
    """What to train. loss and measure take (outputs, targets) of a batch and give a scalar, a mean over it."""

    model: nn.Module
    loss: Outcome
    measure: Outcome
    measure_name: str
    train: Source
    validation: Source


@dataclass
class _State:
    epoch: int = 0
    best: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    job: Job,
    settings: Training,
    device: torch.device,
    folder: Path,
    identity: dict[str, Any],
    progress: Progress,
) -> tuple[list[dict[str, float]], int]:
    """Train until patience or epochs run out; the best weights are in `job.model` afterwards.

    Goes on from `folder/last` where that exists. Returns the history (one dict an epoch) and the best epoch.
    """
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    # On a login node, where srun is there and nobody wants it.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision="32-true",
    )
    plain = job.model.to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(plain, torch.optim.Adam(plain.parameters(), lr=settings.lr, fused=True))
    last = _Last(folder / "last", identity)
    state = last.load(plain, optimizer)
    steps = len(list(_train_batches(job.train, settings, 0)))
    progress.start("training", settings.epochs * steps)
    progress.advance(state.epoch * steps)
    while state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience:
        started = time.perf_counter()
        row = {"epoch": state.epoch + 1, "lr": settings.lr}
        row |= _epoch(job, model, fabric, settings, state, progress, optimizer)
        row |= _epoch(job, model, fabric, settings, state, progress, None)
        row["seconds"] = round(time.perf_counter() - started, 3)
        state.epoch += 1
        state.history.append(row)
        if row["validation_loss"] < state.best:
            state.best, state.best_epoch = row["validation_loss"], state.epoch
            last.keep_best(plain)
        elif not np.isfinite(row["validation_loss"]):
            raise HistoxaiError(f"epoch {state.epoch}: the loss is not finite; use a smaller --lr")
        last.save(plain, optimizer, state)
    progress.stop()
    plain.load_state_dict(last.best)
    return state.history, state.best_epoch


def log_tensorboard(folder: Path, history: list[dict[str, float]]) -> bool:
    """Write the history as TensorBoard events; False where tensorboard is not installed."""
    try:
        from lightning_fabric.loggers import TensorBoardLogger

        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # of a run that was stopped right after
        logger = TensorBoardLogger(folder, name=None, version="tensorboard")
    except ModuleNotFoundError:
        return False
    for row in history:
        logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
    logger.finalize("success")
    return True


def _train_batches(source: Source, settings: Training, epoch: int) -> list[np.ndarray]:
    batches = list(in_batches(source.order(settings.seed, epoch), settings.batch_size))
    # BatchNorm has no variance over one patch; the next epoch's order gives it another place.
    if len(batches) > 1 and len(batches[-1]) == 1 < settings.batch_size:
        batches.pop()
    return batches


def _epoch(
    job: Job,
    model: nn.Module,
    fabric: Fabric,
    settings: Training,
    state: _State,
    progress: Progress,
    optimizer: torch.optim.Optimizer | None,
) -> dict[str, float]:
    training = optimizer is not None
    source, name = (job.train, "train") if training else (job.validation, "validation")
    batches = (
        _train_batches(source, settings, state.epoch)
        if training
        else list(in_batches(np.arange(len(source)), settings.batch_size))
    )
    model.train(training)
    loss_sum = measure_sum = 0.0
    seen = 0
    for at, pair in zip(batches, source.batches(batches), strict=True):
        images, targets = fabric.to_device(pair)
        if training and source.augment is not None:
            images, targets = source.augment(images, targets, state.epoch, source.ids[at])
        with torch.set_grad_enabled(training):
            outputs = model(images)
            loss = job.loss(outputs, targets)
        if optimizer is not None:
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            best = f", best validation loss {state.best:.4f}" if state.history else ""
            progress.advance(1, f"epoch {state.epoch + 1}, loss {loss.item():.4f}{best}")
        loss_sum += loss.item() * len(at)
        measure_sum += job.measure(outputs.detach(), targets).item() * len(at)
        seen += len(at)
    return {f"{name}_loss": loss_sum / seen, f"{name}_{job.measure_name}": measure_sum / seen}


class _Last:
    """`last/`: model, optimizer and history after a whole epoch, and the best weights so far.

    Written at most every SAVE_SECONDS, since three times the weights go to disk; an interruption loses no
    more than that.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.best: dict[str, torch.Tensor] = {}
        self._saved = time.monotonic()
        write_json(folder / "identity.json", identity)

    def load(self, model: nn.Module, optimizer: Any) -> _State:
        saved = read_json(self.folder / "state.json")
        if saved is None:
            return _State()
        tensors = safetensors.torch.load_file(self.folder / saved.pop("file"))
        model.load_state_dict(_part(tensors, "model."))
        self.best = _part(tensors, "best.")
        inner = optimizer.state_dict()
        inner["state"] = {}
        weights = list(model.parameters())
        for key, value in _part(tensors, "adam.").items():
            number, name = key.split(".")
            weight = weights[int(number)]
            # The fused step walks through memory: moments must lie there as their weights do.
            moment = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value
            inner["state"].setdefault(int(number), {})[name] = moment.detach()
        optimizer.load_state_dict(inner)
        return _State(**saved)

    def save(self, model: nn.Module, optimizer: Any, state: _State) -> None:
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for number, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{k}": v for k, v in entries.items()}
        name = f"epoch{state.epoch}.safetensors"
        save_tensors(self.folder / name, tensors)
        # state.json names the file: until it is replaced, the epoch saved before stands.
        write_json(self.folder / "state.json", {**vars(state), "file": name})
        for old in self.folder.glob("epoch*.safetensors"):
            if old.name != name:
                old.unlink()
        self._saved = time.monotonic()

    def keep_best(self, model: nn.Module) -> None:
        self.best = {k: v.detach().clone() for k, v in model.state_dict().items()}


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def forget(folder: Path) -> None:
    """Remove `last/` once the run is finished."""
    shutil.rmtree(folder / "last", ignore_errors=True)
