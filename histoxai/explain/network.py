"""Run a classifier for attribution methods: one precision, fixed micro-batches, bounded memory.

Gradients are computed by `autograd.grad` for the input or one activation, never by `backward`, which also
computes the gradient of every weight (the study's CNN: 223 ms a patch against 25 to 46 ms).
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, partialmethod
from typing import TypeVar
from unittest import mock

import torch
from torch import nn

from histoxai.core.errors import HistoxaiError, is_out_of_memory
from histoxai.networks.inference import to_device

Output = TypeVar("Output")


class Network:
    """A classifier (n, 3, H, W) float32 in 0..1 -> logits (n, classes) float32, in evaluation mode, weights frozen.

    exact: the network in float32, for libraries that put hooks into it, whatever the precision. body: the same, or a
    bfloat16 copy; its layers have the names that users know. module: body between float32 inputs and outputs. compiled:
    passes without a gradient run through torch.compile (the study's CNN: 5.5 ms a patch instead of 6.6, the same bits;
    gradients never do, since its gradient took 27 ms instead of 18). micro_batch: rows of one pass; it is halved when
    memory runs out. full_micro_batch: its first value. on_halving: called with the new micro_batch. overwrites: whether
    layers change the outputs of others in place, found out at the first pass.
    """

    def __init__(
        self,
        module: nn.Module,
        micro_batch: int = 16,
        precision: str = "fp32",
        compiled: bool = False,
        on_halving: Callable[[int], None] = lambda micro_batch: None,
    ) -> None:
        self.exact = module.eval().requires_grad_(False)
        self.overwrites = False
        self.precision, self.on_halving = precision, on_halving
        self.full_micro_batch = self.micro_batch = micro_batch
        self.body = in_bfloat16(self.exact) if precision == "bf16" else self.exact
        self.module = _Cast(self.body, torch.bfloat16) if precision == "bf16" else self.exact
        self._forward: Callable[[torch.Tensor], torch.Tensor] = _compiled(self.module) if compiled else self.module

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU if there are none."""
        return next((p.device for p in self.exact.parameters()), torch.device("cpu"))

    @contextmanager
    def in_fp32(self, micro_batch: int | None = None) -> Iterator[Network]:
        """The same network in float32, TF32 off while inside."""
        backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [b.allow_tf32 for b in backends]
        try:
            for backend in backends:
                backend.allow_tf32 = False
            yield Network(self.exact, micro_batch or self.full_micro_batch)
        finally:
            for backend, flag in zip(backends, before, strict=True):
                backend.allow_tf32 = flag

    def ready(self, x: torch.Tensor) -> torch.Tensor:
        """Move inputs to the network's device, channels last."""
        return to_device(x, self.device).contiguous(memory_format=torch.channels_last)

    # ---- one pass of `micro_batch` rows or fewer

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) -> (n, classes)."""
        return self._forward(x)

    def logit(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The targets' logits (n,)."""
        return of_targets(self.logits(x), targets)

    def probability(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The targets' softmax probabilities (n,)."""
        return of_targets(torch.softmax(self.logits(x), dim=1), targets)

    def gradient(self, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Gradient (n, 3, H, W) of each row's target logit with respect to the row."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(of_targets(self.module(x), targets).sum(), x)[0]

    # ---- any number of rows, in bounded memory

    def run(
        self, step: Callable[[torch.Tensor, torch.Tensor], Output], x: torch.Tensor, targets: torch.Tensor
    ) -> list[Output]:
        """step(x, targets) over `micro_batch` rows at a time.

        If memory runs out, the micro-batch is halved for good and the current rows run again.
        Raises HistoxaiError if not even one row fits.
        """
        outputs: list[Output] = []
        start = 0
        while start < len(x):
            stop = start + self.micro_batch
            output = self._unless_full(partial(step, x[start:stop], targets[start:stop]))
            if output is None:
                self.halve()
            else:
                outputs.append(output)
                start = stop
        return outputs

    def in_parts(self, work: Callable[[int], Output]) -> Output:
        """Call work(rows of one pass) of a library that batches itself; again with half as many if memory runs out.

        Raises HistoxaiError if not even one row fits.
        """
        while True:
            output = self._unless_full(lambda: work(self.micro_batch))
            if output is not None:
                return output
            self.halve()

    def _unless_full(self, work: Callable[[], Output]) -> Output | None:
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, after the handler, is the memory of the failed pass free again.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def halve(self) -> None:
        """Halve the micro-batch.

        Raises HistoxaiError if it is one already.
        """
        if self.micro_batch == 1:
            raise HistoxaiError(
                f"out of memory on {self.device.type} with a single patch in a pass; take a machine with more, or "
                "smaller patches"
            )
        self.micro_batch = max(1, self.micro_batch // 2)
        self.on_halving(self.micro_batch)


def of_targets(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The value (n,) of each row's target among (n, classes)."""
    return values.gather(1, targets[:, None])[:, 0]


class _Cast(nn.Module):
    """A network of another dtype between float32 inputs and outputs."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self._dtype = inner, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) float32 -> (n, classes) float32."""
        return self.inner(x.to(self._dtype)).float()


def in_bfloat16(module: nn.Module) -> nn.Module:
    """Copy a network with bfloat16 weights; batch normalisation keeps its float32 statistics.

    Autocast would convert the study's 98 M weights again in every pass.
    """
    low = copy.deepcopy(module)
    for part in low.modules():
        if not isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            for weight in part.parameters(recurse=False):
                weight.data = weight.data.to(torch.bfloat16)
    return low


def _compiled(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    # compile in this process: a pool of compiler processes would outlive a task that is stopped
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    return torch.compile(module, dynamic=False)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here; it needs a C++ compiler, and Triton on a GPU."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _compiled(nn.ReLU())(torch.ones(2, device=device)).sum().item() == 2  # waits: once a process
    except Exception:  # compilers fail in many ways, and all mean the same here
        return False


def reinitialised(module: nn.Module, seed: int) -> nn.Module:
    """Copy a network with random weights, as before training (Adebayo et al. 2018, arXiv 1810.03292)."""
    copied = copy.deepcopy(module).cpu()  # waits: once a process
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in copied.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()
            else:  # embeddings, scales and projections of attention, which have no reset_parameters
                for weight in part.parameters(recurse=False):
                    nn.init.normal_(weight, std=0.02)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return copied.to(device, memory_format=torch.channels_last).eval()


def micro_batch_for_cpu(module: nn.Module, size: tuple[int, int], least: int = 16, most: int = 64) -> int:
    """Choose the micro-batch for a CPU: `least`, doubled up to `most` while reading weights dominates the time.

    Weights that do not fit into the cache are read once a pass, whatever its rows. The study's CNN at 256 px has 392 MB
    of weights and 20 MB of activations a patch: a gradient takes 18.5 ms a patch in passes of 16, 14.9 in passes of 64.
    ResNet-18 gains nothing. The choice depends on architecture and size (H, W) alone, so that every machine makes the
    same store; activations of a pass stay below 2 GiB.
    """
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    rows, patch = least, _activation_bytes(module, size)
    while rows < most and weights > max(64 << 20, rows * patch / 4) and 2 * rows * patch <= 2 << 30:
        rows *= 2
    return rows


def _activation_bytes(module: nn.Module, size: tuple[int, int]) -> int:
    # bytes of all layers' outputs for one patch
    patch = 0

    def count(_: nn.Module, inputs: object, output: object) -> None:
        nonlocal patch
        patch += output.numel() * output.element_size() if isinstance(output, torch.Tensor) else 0

    leaves = [part for part in module.modules() if not list(part.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, *size, device=next((p.device for p in module.parameters()), None)))
    finally:
        for handle in handles:
            handle.remove()
    return patch


def largest_that_fits(fits: Callable[[int], bool], largest: int = 256, least: int = 16) -> int:
    """Find the largest micro-batch for which `fits` holds, halving from `largest`; `least` if none does."""
    size = largest
    while size > least and not fits(size):
        size //= 2
    return size


def fits_on_gpu(network: Network, size: tuple[int, int], share: float = 0.7) -> Callable[[int], bool]:
    """Return a test: does a gradient pass of n patches of `size` px use at most `share` of the GPU's memory?"""

    def fits(n: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(network.device)
        x = torch.zeros((n, 3, *size), device=network.device)
        try:
            network.gradient(network.ready(x), torch.zeros(n, dtype=torch.long, device=network.device))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        used = torch.cuda.max_memory_reserved(network.device)
        return used <= share * torch.cuda.get_device_properties(network.device).total_memory

    return fits


@contextmanager
def quiet_library() -> Iterator[None]:
    """Silence libraries: their warnings about their own hooks, and their progress bars."""
    from tqdm.std import tqdm

    silent = partialmethod(tqdm.__init__, disable=True)
    with warnings.catch_warnings(), mock.patch.object(tqdm, "__init__", silent):
        warnings.simplefilter("ignore")
        yield
