"""From stored patches to tensors, and fixed micro-batches through a network."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from histoxai.core import resources, signals
from histoxai.core.errors import HistoxaiError, InputRefused, UsageError
from histoxai.core.provenance import keyed_seed
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.patches import TARGETS, Patches

# A training set under this many bytes is read once and kept; a larger one is read patch by patch.
KEEP_BYTES = 2 << 30
CPU = torch.device("cpu")
Augment = Callable[[torch.Tensor, torch.Tensor, int, Sequence[str]], tuple[torch.Tensor, torch.Tensor]]
# Forked processes that read such a set ahead of a GPU. On a CPU a thread does: reading takes a hundredth of a step
# there, and a fork has the next step copy every page of memory that it writes to (3 s at 256 px).
LOADERS = 2
AHEAD = 2  # batches that the thread reads ahead
_FORKED: dict[str, Any] = {"num_workers": LOADERS, "prefetch_factor": 1, "multiprocessing_context": "fork"}


def pick_device(wanted: str, rank: int = 0, precision: str = "fp32") -> torch.device:
    """`auto`, `cpu` or `cuda[:i]` as a device; TF32 is off unless `precision` is tf32.

    rank: which of several worker processes asks; where no GPU is named each takes the next one.
    Raises UsageError for a name that torch does not know, or TF32 on a CPU, and InputRefused where there is no such
    GPU.
    """
    resources.keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    device = _device(wanted)
    if device.type == "cpu" and precision == "tf32":
        raise UsageError("--precision tf32: only GPUs have it; use fp32 or bf16 on a CPU")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageError(f"--device {wanted}: expected auto, cpu or cuda[:i]") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"--device {wanted}: expected auto, cpu or cuda[:i]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputRefused(f"--device {wanted}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def to_tensor(images: np.ndarray, device: torch.device = CPU) -> torch.Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W) float32 in 0..1, channels last in memory; the same bits on every device."""
    if device.type != "cpu":
        # by a number on the device: a plain 255 would be made 1 / 255 and multiplied with
        return (sent(images, device).float() / torch.full((), 255.0, device=device)).permute(0, 3, 1, 2)
    # numpy's one thread in one pass: torch's several wait for each other where loaders use the cores
    return torch.from_numpy(np.divide(images, np.float32(255), dtype=np.float32)).permute(0, 3, 1, 2)


def sent(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; to a GPU as it is and without waiting, a quarter of what floats would be."""
    found = torch.as_tensor(values)
    return found if device.type == "cpu" else found.pin_memory().to(device, non_blocking=True)


class Source(Dataset):
    """Rows of a patch store as training batches of (images, targets).

    Targets are labels (n,) int64, or masks (n, 2, H, W) float32 where `masks` is set. augment: what training does to
    a batch, (images, targets, epoch, patch_ids) -> (images, targets). balanced: every epoch has as many patches of each
    class, some of a large one left out and some of a small one there again.
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
        self._kept = len(rows) * int(np.prod(patches.images.shape[1:])) <= KEEP_BYTES

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _images(self) -> np.ndarray | None:
        return self._patches.read(self.rows) if self._kept else None

    @cached_property
    def _targets(self) -> np.ndarray | None:
        return self._patches.read(self.rows, TARGETS) if self._kept and self._masks else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the patches in px."""
        return self._patches.size

    def first(self, seed: int, n: int) -> Source:
        """The first `n` patches of the first epoch's order, as a source of its own."""
        chosen = np.unique(self.order(seed, 0)[:n])
        return Source(self._patches, self.rows[chosen], self._masks, self.augment, self.balanced)

    def batches(
        self, cut: Sequence[np.ndarray], device: torch.device = CPU
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The patches at each of these lists of positions, on a device; a large set is read ahead."""
        if self._images is not None:
            yield from (self._tensors(device, *self.arrays(at)) for at in cut)
            return
        # connections to storage do not outlive a fork
        threaded = device.type == "cpu" or is_on_s3(self._patches.path)
        for found in (self.read_by_thread if threaded else self.read_by_workers)(cut):
            yield self._tensors(device, *found)

    def read_by_workers(self, cut: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`arrays` at each of these lists of positions, by forked processes that read ahead."""
        # uint8 is handed over: a quarter of the shared memory that floats would take
        loader: Iterable[Any] = DataLoader(
            self, batch_size=None, sampler=cut, collate_fn=_as_tensors, worker_init_fn=_deaf, **_FORKED
        )
        for found in loader:
            if isinstance(found, HistoxaiError):
                raise found
            yield found[0].numpy(), found[1].numpy()

    def read_by_thread(self, cut: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same by a thread of this process."""
        pool = ThreadPoolExecutor(1)
        try:
            waiting: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
            for at in cut:
                waiting.append(pool.submit(self.arrays, at))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def __getitem__(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray] | HistoxaiError:
        """`arrays`, or the error: one that crosses from a worker by itself brings its traceback along."""
        try:
            return self.arrays(at)
        except HistoxaiError as error:
            return error

    def arrays(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (k, H, W, 3) uint8 and labels (k,) or masks (k, 2, H, W) uint8 at some positions."""
        rows = self.rows[at]
        images = self._patches.read(rows) if self._images is None else self._images[at]
        if not self._masks:
            return images, self._patches.label[rows]
        return images, self._patches.read(rows, TARGETS) if self._targets is None else self._targets[at]

    def _tensors(
        self, device: torch.device, images: np.ndarray, targets: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = sent(targets, device)
        return to_tensor(images, device), found.float() if self._masks else found

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """This epoch's order of positions: by hash of (seed, epoch, patch_id), so a resumed run repeats it."""
        keys = [keyed_seed(seed, "order", epoch, i, bits=64) for i in self.ids]
        order = np.argsort(np.array(keys, np.uint64), kind="stable")
        return self._even(order, seed, epoch) if self.balanced else order

    def _even(self, order: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        # of each class its first patches in this order, from the front again where it has too few; then mixed anew
        label = self._patches.label[self.rows][order]
        present = np.unique(label)
        shares = [len(order) // len(present) + (k < len(order) % len(present)) for k in range(len(present))]
        drawn = [np.resize(order[label == c], n) for c, n in zip(present, shares, strict=True)]
        sizes = [int((label == c).sum()) for c in present]
        keys = [
            keyed_seed(seed, "place", epoch, self.ids[at], k // size, bits=64)
            for picks, size in zip(drawn, sizes, strict=True)
            for k, at in enumerate(picks)
        ]
        return np.concatenate(drawn)[np.argsort(np.array(keys, np.uint64), kind="stable")]


def _deaf(worker: int) -> None:
    # signals to a whole group are for the training, which ends its workers itself
    del worker
    for number in signals.STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _as_tensors(found: tuple[np.ndarray, np.ndarray] | HistoxaiError) -> Any:
    # tensors go through shared memory, errors as they are
    return found if isinstance(found, HistoxaiError) else tuple(map(torch.from_numpy, found))


def in_batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut an order into batches."""
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(images: np.ndarray, size: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Micro-batches of exactly `size` patches and how many of them are real.

    The last one repeats its last patch: kernels give other last bits at other batch sizes.
    """
    for start in range(0, len(images), size):
        part = images[start : start + size]
        real = len(part)
        if real < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - real, axis=0)])
        yield to_tensor(part), real


@torch.no_grad()
def forward(
    model: Callable[[torch.Tensor], torch.Tensor], images: np.ndarray, size: int, device: torch.device
) -> np.ndarray:
    """A network's outputs for (n, H, W, 3) uint8 patches, in micro-batches of `size`."""
    parts = [model(x.to(device))[:real].float().cpu().numpy() for x, real in padded(images, size)]
    return np.concatenate(parts)


def predict(model: nn.Module, images: np.ndarray, size: int, device: torch.device) -> dict[str, np.ndarray]:
    """logits (n, C) float32; prediction (n,) int16; probability (n,) float32: softmax of the predicted class."""
    return softmax_of_predicted(forward(model, images, size, device))


def softmax_of_predicted(logits: np.ndarray) -> dict[str, np.ndarray]:
    """logits (n, C) float32, prediction (n,) int16, probability (n,) float32, from logits."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probability = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
    return {
        "logits": logits,
        "prediction": logits.argmax(axis=1).astype(np.int16),
        "probability": probability.astype(np.float32),
    }
