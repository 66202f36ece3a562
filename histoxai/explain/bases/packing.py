"""Network inputs of several patches, packed into full micro-batches.

Integrated Gradients takes a hundred inputs a patch, LIME five hundred. If each patch had micro-batches of its own, its
last one would run half empty, and a batch of another size gives other last bits. Packed, only the last micro-batch of a
work item is padded, and a row's values do not depend on its position or its neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histoxai.explain.bases.method import Map

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network
    from histoxai.networks.inference import HostCopy

Step = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class PatchInputs(ABC):
    """The network inputs of one patch; `rows` is their number and may grow when `take` gets the last of them."""

    def __init__(self, rows: int, target: int) -> None:
        self.rows, self.target = rows, target

    @abstractmethod
    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write inputs [start, stop) into `out` (stop - start, 3, H, W)."""

    @abstractmethod
    def take(self, start: int, stop: int, outputs: torch.Tensor) -> None:
        """Take the network's outputs of inputs [start, stop); called in order of inputs."""

    @abstractmethod
    def summary(self) -> torch.Tensor:
        """Return, once all outputs are taken, what the map is made from, on the network's device."""

    def reduce(self, outputs: torch.Tensor) -> Map:
        """Return the patch's map from its summary, which lies on the host by now; by default it is the map."""
        return Map({"": outputs.numpy()})


@dataclass(eq=False)
class _Progress:
    """How many of a patch's inputs are written, and how many outputs are taken."""

    position: int
    inputs: PatchInputs
    written: int = 0
    taken: int = 0


@dataclass(frozen=True)
class _Slice:
    """Rows [start, stop) of a micro-batch, which belong to one patch."""

    patch: _Progress
    start: int
    stop: int


@dataclass(frozen=True)
class _Finished:
    """A patch whose outputs are taken, and its summary on the way to the host."""

    patch: _Progress
    summary: HostCopy

    def map(self) -> tuple[int, Map]:
        """Return the patch's position and its map."""
        import torch

        return self.patch.position, self.patch.inputs.reduce(torch.from_numpy(self.summary.array()))


def run_packed(
    net: Network, step: Step, work: Iterable[tuple[int, PatchInputs]], shape: tuple[int, ...]
) -> Iterator[tuple[int, Map]]:
    """Run all inputs of all patches; yield (position, map) of each patch when it is finished.

    A GPU runs the next micro-batch while summaries are copied to the host and the maps of this one are made.

    step(x (n, 3, H, W), targets (n,)) -> outputs (n, ...), row by row. work: (position, inputs) of each patch.
    shape: of one input, (3, H, W).
    """
    import torch

    from histoxai.networks.inference import to_device

    source, waiting, finished = iter(work), deque[_Progress](), list[_Finished]()
    x = torch.zeros((net.full_micro_batch, *shape), device=net.device).contiguous(memory_format=torch.channels_last)
    targets = torch.zeros(net.full_micro_batch, dtype=torch.long)
    while slices := _fill(source, waiting, x, targets):
        stop = slices[-1].stop
        x[stop:], targets[stop:] = x[stop - 1], targets[stop - 1]  # pad with the last row
        parts = net.run(step, x, to_device(targets, net.device))
        before, finished = finished, _take(slices, waiting, parts[0] if len(parts) == 1 else torch.cat(parts))
        if net.device.type == "cpu":
            before, finished = finished, []
        yield from (one.map() for one in before)
    yield from (one.map() for one in finished)


def _fill(
    source: Iterator[tuple[int, PatchInputs]], waiting: deque[_Progress], x: torch.Tensor, targets: torch.Tensor
) -> list[_Slice]:
    # fill x from its start with the next inputs of the waiting patches
    slices: list[_Slice] = []
    start = 0
    while start < len(x):
        if not waiting:
            if (following := next(source, None)) is None:
                break
            waiting.append(_Progress(*following))
        patch = waiting[0]
        stop = start + min(len(x) - start, patch.inputs.rows - patch.written)
        patch.inputs.fill(patch.written, patch.written + stop - start, x[start:stop])
        targets[start:stop] = patch.inputs.target
        patch.written += stop - start
        slices.append(_Slice(patch, start, stop))
        start = stop
        if patch.written == patch.inputs.rows:
            waiting.popleft()
    return slices


def _take(slices: list[_Slice], waiting: deque[_Progress], outputs: torch.Tensor) -> list[_Finished]:
    from histoxai.networks.inference import HostCopy

    for s in slices:
        rows = s.stop - s.start
        s.patch.inputs.take(s.patch.taken, s.patch.taken + rows, outputs[s.start : s.stop])
        s.patch.taken += rows
    for patch in reversed([s.patch for s in slices]):  # patches whose inputs have grown go on first
        if patch.taken == patch.written < patch.inputs.rows and patch not in waiting:
            waiting.appendleft(patch)
    done = [s.patch for s in slices if s.patch.taken == s.patch.inputs.rows]
    return [_Finished(patch, HostCopy(patch.inputs.summary())) for patch in done]
