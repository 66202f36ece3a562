"""Read rows of a patch store as training batches, ahead of the network where they do not fit in memory."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from histoxai.core import signals
from histoxai.core.errors import HistoxaiError
from histoxai.core.provenance import keyed_seed
from histoxai.core.s3_paths import is_on_s3
from histoxai.networks.inference import CPU, to_device, to_tensor
from histoxai.store.patches import TARGETS, Patches

# A training set of at most this many bytes is read once and kept in memory; a larger one is read patch by patch.
KEEP_BYTES = 2 << 30
# (images, targets, epoch, patch keys) -> (images, targets)
Augment = Callable[[torch.Tensor, torch.Tensor, int, Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
# Forked processes that read a large set ahead of a GPU. On a CPU a thread does: reading takes a hundredth of a step
# there, and a fork has the next step copy every page of memory that it writes to (3 s at 256 px).
LOADERS = 2
AHEAD = 2  # batches that the thread reads ahead
_FORKED: dict[str, Any] = {"num_workers": LOADERS, "prefetch_factor": 1, "multiprocessing_context": "fork"}


class PatchDataset(Dataset):
    """Rows of a patch store as training batches of (images, targets).

    images: (n, 3, H, W) float32 in 0..1. targets: labels (n,) int64, or with `masks` (n, 2, H, W) float32. augment:
    applied to each training batch. balanced: every epoch has as many patches of each class; large classes lose some,
    small ones repeat some.
    """

    def __init__(
        self,
        patches: Patches,
        rows: np.ndarray,
        masks: bool,
        augment: Augment | None = None,
        balanced: bool = False,
    ) -> None:
        self._patches, self.rows, self._masks, self.augment = patches, rows, masks, augment
        self.balanced = balanced
        self.ids = patches.patch_id[rows]
        self._in_memory = len(rows) * int(np.prod(patches.images.shape[1:])) <= KEEP_BYTES

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _images(self) -> np.ndarray | None:
        return self._patches.read(self.rows) if self._in_memory else None

    @cached_property
    def _targets(self) -> np.ndarray | None:
        return self._patches.read(self.rows, TARGETS) if self._in_memory and self._masks else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the patches in px."""
        return self._patches.size

    def first(self, seed: int, n: int) -> PatchDataset:
        """Return a dataset of the first `n` patches in the order of the first epoch."""
        positions = np.unique(self.order(seed, 0)[:n])
        return PatchDataset(self._patches, self.rows[positions], self._masks, self.augment, self.balanced)

    def batches(
        self, positions: Sequence[np.ndarray], device: torch.device = CPU
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches at these positions, on a device; a set that is not in memory is read ahead."""
        if self._images is not None:
            yield from (self._tensors(device, *self.arrays(at)) for at in positions)
            return
        # connections to storage do not survive a fork
        threaded = device.type == "cpu" or is_on_s3(self._patches.path)
        for images, targets in (self.read_by_thread if threaded else self.read_by_workers)(positions):
            yield self._tensors(device, images, targets)

    def read_by_workers(self, positions: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield `arrays` at these positions, read ahead by forked processes."""
        # uint8 is handed over: a quarter of the shared memory that floats would take
        loader: Iterable[Any] = DataLoader(
            self, batch_size=None, sampler=positions, collate_fn=_as_tensors, worker_init_fn=_ignore_signals, **_FORKED
        )
        for batch in loader:
            if isinstance(batch, HistoxaiError):
                raise batch
            yield batch[0].numpy(), batch[1].numpy()

    def read_by_thread(self, positions: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield `arrays` at these positions, read ahead by a thread of this process."""
        pool = ThreadPoolExecutor(1)
        try:
            waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
            for at in positions:
                waiting.append(pool.submit(self.arrays, at))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def __getitem__(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray] | HistoxaiError:
        """Return `arrays` or its error: an error raised in a loader process arrives with a foreign traceback."""
        try:
            return self.arrays(at)
        except HistoxaiError as error:
            return error

    def arrays(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images (k, H, W, 3) uint8 and labels (k,) or masks (k, 2, H, W) uint8 at positions."""
        rows = self.rows[at]
        images = self._patches.read(rows) if self._images is None else self._images[at]
        if not self._masks:
            return images, self._patches.label[rows]
        return images, self._patches.read(rows, TARGETS) if self._targets is None else self._targets[at]

    def _tensors(
        self, device: torch.device, images: np.ndarray, targets: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        moved = to_device(targets, device)
        return to_tensor(images, device), moved.float() if self._masks else moved

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return this epoch's order of positions, by hash of (seed, epoch, patch_id), so a resumed run repeats it."""
        order = _by_hash(keyed_seed(seed, "order", epoch, i, bits=64) for i in self.ids)
        return self._balanced_order(order, seed, epoch) if self.balanced else order

    def _balanced_order(self, order: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        # the first patches of each class in this order, from its start again where they are too few; then shuffled
        label = self._patches.label[self.rows][order]
        classes = np.unique(label)
        wanted = [len(order) // len(classes) + (k < len(order) % len(classes)) for k in range(len(classes))]
        drawn = [np.resize(order[label == c], n) for c, n in zip(classes, wanted, strict=True)]
        sizes = [int((label == c).sum()) for c in classes]
        keys = (
            keyed_seed(seed, "place", epoch, self.ids[at], k // size, bits=64)
            for positions, size in zip(drawn, sizes, strict=True)
            for k, at in enumerate(positions)
        )
        return np.concatenate(drawn)[_by_hash(keys)]


def _by_hash(keys: Iterable[int]) -> np.ndarray:
    return np.argsort(np.array(list(keys), np.uint64), kind="stable")


def _ignore_signals(worker: int) -> None:
    # a signal to the whole process group is for the training process, which ends its loaders itself
    del worker
    for number in signals.STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _as_tensors(batch: tuple[np.ndarray, np.ndarray] | HistoxaiError) -> Any:
    # tensors go through shared memory, errors as they are
    return batch if isinstance(batch, HistoxaiError) else tuple(map(torch.from_numpy, batch))
