"""The one training loop: Lightning Fabric, Adam, early stopping on the validation loss, best weights kept.

Order, augmentation, mixing and dropout are keyed by seed, epoch and patch or batch, and nothing else is random: a run
that was killed and resumed ends with the bytes of one that was not. Several processes share every batch, so that their
steps are those of one process with the same batches (normalisation over the batch apart, which each does by itself).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
from histoxai.networks.inference import Source, in_batches
from histoxai.settings import Training
from histoxai.train.checkpoints import Checkpoints, State, check_fit
from histoxai.train.launcher import Elsewhere
from histoxai.train.logging import Journal
from histoxai.train.schedules import Rates
from histoxai.train.state import Learner

Outcome = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# On a GPU, passes between looks at the losses: each look waits for all that was asked of it.
_LOOK_EVERY = 16
_NAMED = 8  # patches of a batch that a message names


@dataclass
class Job:
    """What to train. loss and measure take (outputs, targets) of a batch and give a scalar, a mean over its patches.

    mixup: alpha of the beta distribution that weighs two patches against each other, 0 for none.
    """

    model: nn.Module
    loss: Outcome
    measure: Outcome
    measure_name: str
    train: Source
    validation: Source
    mixup: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """What a training has come to: one dict an epoch, the best epoch, and the seconds of all its starts."""

    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    patches_per_second: float | None


def fit(
    job: Job, settings: Training, fabric: Fabric, folder: Path, identity: dict[str, Any], progress: Progress
) -> Fitted:
    """Train until patience or epochs run out; the best weights are in `job.model` afterwards, in the first process.

    Goes on from `folder/last` where that exists. A signal to stop ends the running step, writes a checkpoint and raises
    Interrupted. Raises HistoxaiError, with the patches, where the loss is not finite.
    """
    with signals.deferred(signals.TRAINING_GRACE):
        return _Fit(job, settings, fabric, folder, identity, progress).run()


def train_batches(source: Source, settings: Training, epoch: int, least: int = 2) -> list[np.ndarray]:
    """This epoch's batches, as positions; a last one with fewer than `least` patches is left out."""
    batches = list(in_batches(source.order(settings.seed, epoch), settings.batch_size))
    # BatchNorm has no variance over one patch; the next epoch's order gives it another place.
    if len(batches) > 1 and len(batches[-1]) < min(least, settings.batch_size):
        batches.pop()
    return batches


def normalises_over_batch(model: nn.Module) -> bool:
    """Whether a network has layers that take their statistics from the batch."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


class _Fit:
    def __init__(
        self,
        job: Job,
        settings: Training,
        fabric: Fabric,
        folder: Path,
        identity: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.job, self.settings, self.fabric = job, settings, fabric
        self.lead, self.world = fabric.is_global_zero, fabric.world_size
        self.progress: Progress = progress if self.lead else Silent()
        self.least = 2 * self.world if normalises_over_batch(job.model) else 2
        self.learner = Learner(job.model, settings, fabric, self.progress)
        self.checkpoints = Checkpoints(folder / "last", identity)
        self.journal = Journal(folder, self.progress)
        self.state = State()
        self._trained, self._training, self._started = 0, 0.0, time.perf_counter()

    def run(self) -> Fitted:
        settings, state = self.settings, self._restored()
        per_epoch = len(train_batches(self.job.train, settings, 0, self.least))
        self.progress.start("training", settings.epochs * per_epoch, state.epoch * per_epoch + state.batch)
        if self.lead:
            self.checkpoints.begin()
            self.journal.begin(state.history)
        self._started = time.perf_counter() - state.seconds
        while state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience:
            row = self._train(train_batches(self.job.train, settings, state.epoch, self.least))
            row |= self._validate()
            self._close_epoch(row)
            if self.lead and self.checkpoints.due(settings.checkpoint_minutes, boundary=True):
                self._save()
        self.progress.stop()
        if self.lead:
            self.journal.end(state.history)
            self.job.model.load_state_dict(self.checkpoints.best)
        pace = self._trained / self._training if self._training else None
        return Fitted(state.history, state.best_epoch, time.perf_counter() - self._started, pace)

    def _restored(self) -> State:
        # the first process chooses, so that none goes on from another place
        name = self.checkpoints.newest(self.progress) if self.lead else None
        name = self.fabric.broadcast(name)
        if name is None:
            if self.settings.resume == "required":
                said = f"--resume required: {self.checkpoints.folder} holds no checkpoint to go on from"
                raise InputRefused(said) if self.lead else Elsewhere(said)
            return self.state
        try:
            self.state, tensors = self.checkpoints.load(name)
        except (ValueError, TypeError, KeyError) as error:  # not to a process that reads what the first one read
            raise HistoxaiError(f"{self.checkpoints.folder}: this process reads another {name}: {error}") from error
        try:
            self.learner.load(tensors, self.state.scaler)
            check_fit(self.checkpoints.best, self.job.model.state_dict())
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
        self.state.scaler = self.learner.scaler()
        self.state.seconds = time.perf_counter() - self._started
        self.checkpoints.save(self.state, self.learner.tensors())

    def _train(self, batches: list[np.ndarray]) -> dict[str, float]:
        state, settings, every = self.state, self.settings, self.settings.accumulate
        per_epoch = -(-len(batches) // every)
        rates = Rates(settings, per_epoch, [row["validation_loss"] for row in state.history])
        feed = self._feed(self.job.train, batches[state.batch :])
        pending: list[_Pass] = []
        started, before = time.perf_counter(), state.sums[2]
        self.learner.train()
        for first in range(state.batch, len(batches), every):
            group = batches[first : first + every]
            step = state.epoch * per_epoch + first // every
            total = sum(map(len, group))
            for k, at in enumerate(group, first):
                mine, images, targets = next(feed)
                pending.append(self._pass(k, at, mine, images, targets, total, last=k == first + len(group) - 1))
            self.learner.step(rates(step))
            state.batch = first + len(group)
            if self._looks(len(pending)) or state.batch == len(batches):
                self._look(pending, state.sums, "train")
                pending = []
        self._training += time.perf_counter() - started
        self._trained += round(state.sums[2] - before)
        lr = rates((state.epoch + 1) * per_epoch - 1)
        return {"epoch": state.epoch + 1, "lr": lr, **self._means(state.sums, "train")}

    def _pass(
        self,
        k: int,
        at: np.ndarray,
        mine: np.ndarray,
        images: torch.Tensor,
        targets: torch.Tensor,
        total: int,
        last: bool,
    ) -> _Pass:
        # one batch forward and backward; its gradient counts by its share of the step's patches
        job, epoch, seed, rank = self.job, self.state.epoch, self.settings.seed, self.fabric.global_rank
        if job.train.augment is not None:
            ids = job.train.ids[mine]
            # a patch that is drawn again in this epoch is augmented anew
            keys = [f"{i}@{k}" for i in ids] if job.train.balanced else ids
            images, targets = job.train.augment(images, targets, epoch, keys)
        share, partner = 1.0, None
        if job.mixup:
            rng = np.random.default_rng(keyed_seed(seed, "mixup", epoch, k))
            share = float(rng.beta(job.mixup, job.mixup))
            order = np.random.default_rng(keyed_seed(seed, "partners", epoch, k, rank)).permutation(len(mine))
            partner = torch.from_numpy(order).to(images.device)
            images = share * images + (1 - share) * images[partner]
        torch.manual_seed(keyed_seed(seed, "pass", epoch, k, rank, bits=63))  # of dropout
        n = self._counting(at, mine)
        with self.learner.passing(last):
            outputs = self.learner(images)
            loss = job.loss(outputs, targets)
            if partner is not None:
                loss = share * loss + (1 - share) * job.loss(outputs, targets[partner])
            self.learner.backward(loss * (n * self.world / total))
        return _Pass(loss.detach(), job.measure(outputs.detach(), targets), n, job.train.ids[mine])

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        job, source = self.job, self.job.validation
        batches = list(in_batches(np.arange(len(source)), self.settings.batch_size))
        sums, pending = [0.0, 0.0, 0.0], []
        self.learner.eval()
        for k, (mine, images, targets) in enumerate(self._feed(source, batches), 1):
            outputs = self.learner.judged(images)
            n = self._counting(batches[k - 1], mine)
            pending.append(_Pass(job.loss(outputs, targets), job.measure(outputs, targets), n, source.ids[mine]))
            if self._looks(len(pending)) or k == len(batches):
                self._look(pending, sums, "validation")
                pending = []
        return self._means(sums, "validation")

    def _close_epoch(self, row: dict[str, float]) -> None:
        state = self.state
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
        state.history.append(row)
        if row["validation_loss"] < state.best:
            state.best, state.best_epoch = row["validation_loss"], state.epoch
            if self.lead:
                self.checkpoints.keep_best(self.learner.weights())
        if self.lead:
            pace = self._trained / self._training if self._training else None
            self.journal.add(row, state.history, state.best_epoch, pace)

    def _feed(
        self, source: Source, batches: Sequence[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        # this process's part of every batch; where there are fewer patches than processes, one that does not count
        parts = [np.array_split(at, self.world)[self.fabric.global_rank] for at in batches]
        parts = [mine if len(mine) else at[:1] for mine, at in zip(parts, batches, strict=True)]
        for mine, (images, targets) in zip(parts, source.batches(parts, self.fabric.device), strict=True):
            yield mine, images, targets

    def _looks(self, waiting: int) -> bool:
        # several processes have to agree without speaking
        stopped = self.world == 1 and signals.stop_requested()
        return self.fabric.device.type == "cpu" or waiting >= _LOOK_EVERY or stopped

    def _counting(self, at: np.ndarray, mine: np.ndarray) -> int:
        return len(mine) if self.fabric.global_rank < len(at) else 0

    def _look(self, passes: list[_Pass], sums: list[float], part: str) -> None:
        """Add passes to the sums, of all processes; stop or write a checkpoint where one of them is asked to."""
        found = torch.stack([torch.stack([p.loss.double(), p.measure.double()]) for p in passes]).cpu()
        bad = next((p for p, loss in zip(passes, found[:, 0].tolist(), strict=True) if not np.isfinite(loss)), None)
        due = self.lead and self.checkpoints.due(self.settings.checkpoint_minutes, boundary=False)
        n = torch.tensor([[p.n] for p in passes], dtype=torch.float64)
        flags = torch.tensor([[bad is not None, signals.stop_requested(), due]], dtype=torch.float64)
        table = torch.cat([torch.cat([found.nan_to_num() * n, n], dim=1), flags])
        if self.world > 1:
            table = self.fabric.all_reduce(table, reduce_op="sum").cpu()
        *rows, (broken, stopped, saving) = table.tolist()
        if broken:
            raise self._not_finite(bad, part)
        for row in rows:  # one by one, so that sums do not depend on when we look
            sums[:] = [a + b for a, b in zip(sums, row, strict=True)]
        if part == "train":
            best = f", best validation loss {self.state.best:.4f}" if self.state.history else ""
            loss = rows[-1][0] / max(rows[-1][2], 1)
            self.progress.advance(len(passes), f"epoch {self.state.epoch + 1}, loss {loss:.4f}{best}")
        if stopped or saving:
            if self.lead:
                self._save()
            if stopped:
                self.fabric.barrier()  # schedulers end all tasks when the first has ended
                signals.check()
                raise Interrupted("another process was stopped")

    def _not_finite(self, bad: _Pass | None, part: str) -> HistoxaiError:
        where = f"epoch {self.state.epoch + 1}, {part} batch"
        if bad is None:
            return Elsewhere(f"{where}: another process met a loss that is not finite")
        more = f" and {len(bad.ids) - _NAMED} more" if len(bad.ids) > _NAMED else ""
        whole = all(bool(torch.isfinite(w).all()) for w in self.job.model.parameters())
        why = "the weights are finite" if whole else "the weights are not finite since this step or one before it"
        return HistoxaiError(
            f"{where} of patches {', '.join(map(str, bad.ids[:_NAMED]))}{more}: the loss is {float(bad.loss)} ({why}); "
            "use a smaller --lr, --warmup 1 or --clip 1"
        )

    def _means(self, sums: list[float], part: str) -> dict[str, float]:
        return {f"{part}_loss": sums[0] / sums[2], f"{part}_{self.job.measure_name}": sums[1] / sums[2]}


@dataclass
class _Pass:
    """One batch of this process: mean loss and measure, how many patches they count for, whose they are."""

    loss: torch.Tensor
    measure: torch.Tensor
    n: int
    ids: np.ndarray
