"""The training loop: Adam, early stopping on the validation loss, best weights kept.

Order, augmentation, mixup and dropout are keyed by seed, epoch and patch or batch, and nothing else is random: a run
that was killed and resumed ends with the same bytes as one that was not. Ranks share every batch, so that the steps are
those of one process (except that each rank normalises over its own part of the batch).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from histoxai.core import signals
from histoxai.core.errors import HistoxaiError, InputRefused, Interrupted, is_out_of_memory
from histoxai.core.progress import Progress, Silent
from histoxai.core.provenance import keyed_seed
from histoxai.settings import Training
from histoxai.train.batches import (
    Batch,
    BatchMetric,
    BatchOutcome,
    Mixup,
    augmented,
    cut,
    normalises_over_batch,
    own_batches,
    train_batches,
)
from histoxai.train.checkpoints import Checkpoints, LoopState, check_weights_fit
from histoxai.train.dataset import PatchDataset
from histoxai.train.launcher import OtherRankFailed
from histoxai.train.logging import EpochLog
from histoxai.train.schedules import LearningRates
from histoxai.train.state import TrainState
from histoxai.train.stopping import has_ended

# Batches between reads of the losses on a GPU: each read waits for all kernels that were started.
_READ_EVERY = 16
_MOST_NAMED = 8  # patches of a batch that a message names


@dataclass
class TrainingInputs:
    """What to train: a network, its loss and metric, and the patches of both splits.

    mixup: alpha of the beta distribution of the mixing share, 0 for none.
    """

    model: nn.Module
    loss: BatchMetric
    metric: BatchMetric
    metric_name: str
    train: PatchDataset
    validation: PatchDataset
    mixup: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """The history (one dict an epoch), the best epoch (from 1), and the seconds of training over all starts."""

    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    patches_per_second: float | None


def fit(
    inputs: TrainingInputs,
    settings: Training,
    fabric: Fabric,
    folder: Path,
    identity: dict[str, Any],
    progress: Progress,
) -> TrainingResult:
    """Train until patience or epochs run out; rank 0 then has the best weights in `inputs.model`.

    Resumes from `folder/last` if that exists. A signal ends the current step, writes a checkpoint and raises
    Interrupted. Raises HistoxaiError, with the patches, where the loss is not finite.
    """
    with signals.deferred(signals.TRAINING_GRACE):
        return _Loop(inputs, settings, fabric, Checkpoints(folder / "last", identity), progress).run()


class _Loop:
    def __init__(
        self,
        inputs: TrainingInputs,
        settings: Training,
        fabric: Fabric,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        self.inputs, self.settings, self.fabric, self.checkpoints = inputs, settings, fabric, checkpoints
        self.is_first = fabric.is_global_zero
        self.progress: Progress = progress if self.is_first else Silent()
        self.least = 2 * fabric.world_size if normalises_over_batch(inputs.model) else 2
        self.train_state = TrainState(inputs.model, settings, fabric, self.progress)
        self.log = EpochLog(checkpoints.folder.parent, self.progress)
        self.state = LoopState()
        self._started = time.perf_counter()
        self._patches, self._seconds = 0, 0.0  # of training epochs in this start, without validation

    def run(self) -> TrainingResult:
        settings, state = self.settings, self._resume()
        per_epoch = len(self._train_batches(0))
        self.progress.start("training", settings.most_epochs * per_epoch, state.epoch * per_epoch + state.batch)
        if self.is_first:
            self.checkpoints.begin()
            self.log.begin(state.history)
        self._started = time.perf_counter() - state.seconds
        while not has_ended(settings, self._validation_losses()):
            self._close_epoch(self._train_epoch(self._train_batches(state.epoch)) | self._validate())
            if self.is_first and self.checkpoints.due(settings.checkpoint_minutes, epoch_ended=True):
                self._save()
        self.progress.stop()
        if self.is_first:
            self.log.end(state.history)
            self.inputs.model.load_state_dict(self.checkpoints.best)
        return TrainingResult(state.history, state.best_epoch, time.perf_counter() - self._started, self._pace())

    def _pace(self) -> float | None:
        return self._patches / self._seconds if self._seconds else None

    def _validation_losses(self) -> list[float]:
        return [row["validation_loss"] for row in self.state.history]

    def _train_batches(self, epoch: int) -> list[np.ndarray]:
        return train_batches(self.inputs.train, self.settings, epoch, self.least)

    # ---- checkpoints

    def _resume(self) -> LoopState:
        # rank 0 chooses, so that all ranks start from the same checkpoint
        name = self.fabric.broadcast(self.checkpoints.newest(self.progress) if self.is_first else None)
        if name is None:
            if self.settings.resume == "required":
                message = f"--resume required: {self.checkpoints.folder} holds no checkpoint to go on from"
                raise InputRefused(message) if self.is_first else OtherRankFailed(message)
            return self.state
        try:
            self.state, tensors = self.checkpoints.load(name)
        except (ValueError, TypeError, KeyError) as error:  # on a rank whose disk shows other bytes than rank 0's
            raise HistoxaiError(f"{self.checkpoints.folder}: this process reads another {name}: {error}") from error
        try:
            self.train_state.load(tensors, self.state.scaler)
            check_weights_fit(self.checkpoints.best, self.inputs.model.state_dict())
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise InputRefused(
                f"{self.checkpoints.folder}: its checkpoint does not fit this network "
                f"({(str(error).splitlines() or ['no reason given'])[-1].strip()[:120]}); --force starts over"
            ) from error
        at = f"epoch {self.state.epoch + 1}, batch {self.state.batch + 1}"
        self.progress.say(f"{self.checkpoints.folder}: going on from its checkpoint at {at}")
        return self.state

    def _save(self) -> None:
        self.state.scaler = self.train_state.scaler()
        self.state.seconds = time.perf_counter() - self._started
        self.checkpoints.save(self.state, self.train_state.tensors())

    # ---- epochs

    def _train_epoch(self, batches: list[np.ndarray]) -> dict[str, float]:
        state, every = self.state, self.settings.accumulate
        steps_per_epoch = -(-len(batches) // every)
        rates = LearningRates(self.settings, steps_per_epoch, self._validation_losses())
        own = own_batches(self.inputs.train, batches[state.batch :], self.fabric, state.batch)
        unread: list[BatchOutcome] = []
        started, patches_before = time.perf_counter(), state.sums[2]
        self.train_state.train()
        for first in range(state.batch, len(batches), every):
            group = batches[first : first + every]
            patches = sum(map(len, group))
            for k in range(len(group)):
                unread.append(self._accumulate(next(own), patches, sync=k == len(group) - 1))
            self.train_state.step(rates(state.epoch * steps_per_epoch + first // every))
            state.batch = first + len(group)
            if self._should_read(len(unread)) or state.batch == len(batches):
                self._read(unread, state.sums, "train")
                unread = []
        self._seconds += time.perf_counter() - started
        self._patches += round(state.sums[2] - patches_before)
        lr = rates((state.epoch + 1) * steps_per_epoch - 1)
        return {"epoch": state.epoch + 1, "lr": lr, **self._means(state.sums, "train")}

    def _accumulate(self, batch: Batch, step_patches: int, sync: bool) -> BatchOutcome:
        """Run a batch forward and backward; its gradient is weighted by its share of the step's patches."""
        inputs, epoch, seed, rank = self.inputs, self.state.epoch, self.settings.seed, self.fabric.global_rank
        images, targets = augmented(batch, inputs.train, epoch)
        mixup = Mixup.draw(inputs.mixup, batch, seed, epoch, rank) if inputs.mixup else None
        if mixup is not None:
            images = mixup.images(images)
        torch.manual_seed(keyed_seed(seed, "pass", epoch, batch.number, rank, bits=63))  # of dropout
        with self.train_state.gradient_sync(sync):
            outputs = self.train_state(images)
            loss = inputs.loss(outputs, targets) if mixup is None else mixup.loss(inputs.loss, outputs, targets)
            self.train_state.backward(loss * (batch.patches * self.fabric.world_size / step_patches))
        metric = inputs.metric(outputs.detach(), targets)
        return BatchOutcome(loss.detach(), metric, batch.patches, inputs.train.ids[batch.positions])

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        inputs, dataset = self.inputs, self.inputs.validation
        batches = cut(np.arange(len(dataset)), self.settings.batch_size)
        sums = [0.0, 0.0, 0.0]
        unread: list[BatchOutcome] = []
        self.train_state.eval()
        for batch in own_batches(dataset, batches, self.fabric):
            outputs = self.train_state.evaluate(batch.images)
            loss, metric = (f(outputs, batch.targets) for f in (inputs.loss, inputs.metric))
            unread.append(BatchOutcome(loss, metric, batch.patches, dataset.ids[batch.positions]))
            if self._should_read(len(unread)) or batch.number == len(batches) - 1:
                self._read(unread, sums, "validation")
                unread = []
        return self._means(sums, "validation")

    def _close_epoch(self, row: dict[str, float]) -> None:
        state = self.state
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
        state.history.append(row)
        if row["validation_loss"] < state.best:
            state.best, state.best_epoch = row["validation_loss"], state.epoch
            if self.is_first:
                self.checkpoints.keep_best(self.train_state.evaluation_weights())
        if self.is_first:
            self.log.add(state.history, state.best_epoch, self._pace())

    def _means(self, sums: list[float], split: str) -> dict[str, float]:
        return {f"{split}_loss": sums[0] / sums[2], f"{split}_{self.inputs.metric_name}": sums[1] / sums[2]}

    # ---- reading losses, which waits for the device, and agreeing with the other ranks

    def _should_read(self, unread: int) -> bool:
        # several ranks have to agree on it without communicating
        stopped = self.fabric.world_size == 1 and signals.stop_requested()
        return self.fabric.device.type == "cpu" or unread >= _READ_EVERY or stopped

    def _read(self, outcomes: list[BatchOutcome], sums: list[float], split: str) -> None:
        """Add the outcomes of all ranks to `sums`; write a checkpoint or stop where any rank has to."""
        values = torch.stack(
            [torch.stack([o.loss.double(), o.metric.double()]) for o in outcomes]
        ).cpu()  # waits: every 16 batches
        losses = values[:, 0].tolist()
        bad = next((o for o, loss in zip(outcomes, losses, strict=True) if not np.isfinite(loss)), None)
        due = self.is_first and self.checkpoints.due(self.settings.checkpoint_minutes, epoch_ended=False)
        patches = torch.tensor([[o.patches] for o in outcomes], dtype=torch.float64)
        flags = torch.tensor([[bad is not None, signals.stop_requested(), due]], dtype=torch.float64)
        table = torch.cat([torch.cat([values.nan_to_num() * patches, patches], dim=1), flags])
        if self.fabric.world_size > 1:
            table = self.fabric.all_reduce(table, reduce_op="sum").cpu()  # waits: every 16 batches
        *rows, (any_bad, any_stopped, any_due) = table.tolist()
        if any_bad:
            raise self._not_finite(bad, split)
        for row in rows:  # one by one, so that sums do not depend on how often losses are read
            sums[:] = [a + b for a, b in zip(sums, row, strict=True)]
        if split == "train":
            self._show(len(outcomes), rows[-1][0] / max(rows[-1][2], 1))
        if any_due or any_stopped:
            self._save_or_stop(bool(any_stopped))

    def _show(self, batches: int, loss: float) -> None:
        best = f", best validation loss {self.state.best:.4f}" if self.state.history else ""
        self.progress.advance(batches, f"epoch {self.state.epoch + 1}, loss {loss:.4f}{best}")

    def _save_or_stop(self, stopped: bool) -> None:
        if self.is_first:
            self._save()
        if stopped:
            self.fabric.barrier()  # schedulers end all tasks when the first has ended
            signals.check()
            raise Interrupted("another process was stopped")

    def _not_finite(self, bad: BatchOutcome | None, split: str) -> HistoxaiError:
        where = f"epoch {self.state.epoch + 1}, {split} batch"
        if bad is None:
            return OtherRankFailed(f"{where}: another process met a loss that is not finite")
        more = f" and {len(bad.ids) - _MOST_NAMED} more" if len(bad.ids) > _MOST_NAMED else ""
        finite = all(bool(torch.isfinite(w).all()) for w in self.inputs.model.parameters())
        why = "the weights are finite" if finite else "the weights are not finite since this step or one before it"
        return HistoxaiError(
            f"{where} of patches {', '.join(map(str, bad.ids[:_MOST_NAMED]))}{more}: the loss is {float(bad.loss)} "
            f"({why}); use a smaller --lr, --warmup 1 or --clip 1"
        )
