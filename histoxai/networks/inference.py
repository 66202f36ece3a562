"""Choose a device, turn stored patches into tensors, and run networks on them in micro-batches of one size."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from histoxai.core import resources
from histoxai.core.errors import InputRefused, UsageError

CPU = torch.device("cpu")


def pick_device(name: str, rank: int, precision: str = "fp32") -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda[:i]`; switch TF32 off unless `precision` is tf32.

    rank: of this worker process, or of this training process on its node (0 for one alone); where no GPU is named, each
    rank takes the next one. Raises UsageError for another name, or TF32 on a CPU; InputRefused for a GPU that this
    machine does not have.
    """
    resources.keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    device = _parse_device(name)
    if device.type == "cpu" and precision == "tf32":
        raise UsageError("--precision tf32: only GPUs have it; use fp32 or bf16 on a CPU")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def repeat_to_the_byte() -> None:
    """Let GPU kernels give the same bytes each time, where torch has such kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a search for bugs, which takes time
    torch.backends.cudnn.benchmark = False


def _parse_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: expected auto, cpu or cuda[:i]") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise UsageError(f"--device {name}: expected auto, cpu or cuda[:i]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputRefused(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def to_tensor(images: np.ndarray, device: torch.device = CPU) -> torch.Tensor:
    """Convert (n, H, W, 3) uint8 to (n, 3, H, W) float32 in 0..1, channels last in memory.

    The bits are the same on every device.
    """
    if device.type != "cpu":
        # divided by a number on the device: torch multiplies with 1 / 255 where it is given a plain 255
        return (to_device(images, device).float() / torch.full((), 255.0, device=device)).permute(0, 3, 1, 2)
    # numpy's one thread in one pass: torch's several wait for each other where loaders use the cores
    return torch.from_numpy(np.divide(images, np.float32(255), dtype=np.float32)).permute(0, 3, 1, 2)


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy an array or a tensor to a device in its own dtype; the copy to a GPU is asynchronous."""
    tensor = torch.as_tensor(values)
    if device.type == "cpu" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A copy of a tensor to the host. The copy from a GPU is asynchronous; `array` waits for it alone."""

    def __init__(self, values: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = values.detach()

    def array(self) -> np.ndarray:
        """Return the values."""
        if self._event is not None:
            self._event.synchronize()  # waits: for one copy, while the device is at later passes
        return self._host.numpy()


def padded(images: np.ndarray, size: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield micro-batches of exactly `size` patches, and how many of them are real.

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
    model: Callable[[torch.Tensor], torch.Tensor], images: np.ndarray, micro_batch: int, device: torch.device
) -> np.ndarray:
    """Return a network's outputs, float32, for (n, H, W, 3) uint8 patches."""
    waiting = [HostCopy(model(to_device(x, device))[:real].float()) for x, real in padded(images, micro_batch)]
    return np.concatenate([copy.array() for copy in waiting])


def predict_patches(
    network: nn.Module, images: np.ndarray, micro_batch: int, device: torch.device, embeddings: bool = False
) -> dict[str, np.ndarray]:
    """Classify (n, H, W, 3) uint8 patches: the arrays of `prediction_arrays`, and `embedding` (n, D) float32 if asked.

    An embedding is the input of the network's last linear layer (its `head_layer`).
    """
    if not embeddings:
        return prediction_arrays(forward(network, images, micro_batch, device))
    with _head_inputs(network) as inputs:
        logits = forward(network, images, micro_batch, device)
    embedding = np.concatenate([copy.array() for copy in inputs])[: len(images)]  # only the last micro-batch is padded
    return {**prediction_arrays(logits), "embedding": embedding}


@contextmanager
def _head_inputs(network: nn.Module) -> Iterator[list[HostCopy]]:
    """Collect the input of the network's head in every pass made inside."""
    inputs: list[HostCopy] = []
    head = network.get_submodule(str(network.head_layer))
    hook = head.register_forward_pre_hook(lambda _, arguments: inputs.append(HostCopy(arguments[0].float())))
    try:
        yield inputs
    finally:
        hook.remove()


def prediction_arrays(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Return `logits` (n, C) float32, `prediction` (n,) int16 and `probability` (n,) float32 as stores hold them.

    probability: the softmax, computed in float64, of the predicted class.
    """
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probability = (exponentials / exponentials.sum(axis=1, keepdims=True)).max(axis=1)
    return {
        "logits": logits,
        "prediction": logits.argmax(axis=1).astype(np.int16),
        "probability": probability.astype(np.float32),
    }
