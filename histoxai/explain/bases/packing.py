"""Network inputs of several patches packed into full micro-batches.

A patch of Integrated Gradients is a hundred rows, one of LIME five hundred: cut into micro-batches patch by patch,
the last one of each would run half empty, and a batch of another size gives other last bits. Packed, only the
last micro-batch of a work item is padded, and a row's values do not depend on its place or its neighbours.
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

Step = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


class PatchInputs(ABC):
    """One patch's rows through the network; `rows` may grow while they are taken, as long as they do not suffice."""

    def __init__(self, rows: int, target: int) -> None:
        self.rows, self.target = rows, target

    @abstractmethod
    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write inputs [start, stop) into `out` (stop - start, 3, H, W)."""

    @abstractmethod
    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        """Take over what the step gave for rows [start, stop); called in order of rows."""

    @abstractmethod
    def result(self) -> Map:
        """The map, once all rows are taken."""


@dataclass(eq=False)
class _Job:
    place: int
    passes: PatchInputs
    made: int = 0
    taken: int = 0


def run_packed(
    net: Network, step: Step, work: Iterable[tuple[int, PatchInputs]], shape: tuple[int, ...]
) -> Iterator[tuple[int, Map]]:
    """Run all rows of (place, passes) pairs; yields (place, map) as patches are finished.

    step(x (n, 3, H, W), targets (n,)) -> values (n, ...), row by row. shape: of an input, (3, H, W).
    """
    import torch

    source, waiting = iter(work), deque[_Job]()
    x = torch.zeros((net.asked, *shape), device=net.device).contiguous(memory_format=torch.channels_last)
    targets = torch.zeros(net.asked, dtype=torch.long)
    while True:
        cut = _fill(source, waiting, x, targets)
        if not cut:
            return
        stop = cut[-1][2]
        x[stop:], targets[stop:] = x[stop - 1], targets[stop - 1]  # padding: the last row again
        parts = net.run(step, x, targets.to(net.device))
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        for job, start, end in cut:
            rows = end - start
            job.passes.take(job.taken, job.taken + rows, found[start:end])
            job.taken += rows
        for job in reversed([j for j, _, _ in cut]):  # a patch whose rows did not suffice comes first again
            if job.taken == job.made < job.passes.rows and job not in waiting:
                waiting.appendleft(job)
        for job in [j for j, _, _ in cut]:
            if job.taken == job.passes.rows:
                yield job.place, job.passes.result()


def _fill(
    source: Iterator[tuple[int, PatchInputs]], waiting: deque[_Job], x: torch.Tensor, targets: torch.Tensor
) -> list[tuple[_Job, int, int]]:
    # fill x from its start; returns which rows of it are whose
    cut: list[tuple[_Job, int, int]] = []
    at = 0
    while at < len(x):
        if not waiting:
            following = next(source, None)
            if following is None:
                break
            waiting.append(_Job(*following))
        job = waiting[0]
        rows = min(len(x) - at, job.passes.rows - job.made)
        job.passes.fill(job.made, job.made + rows, x[at : at + rows])
        targets[at : at + rows] = job.passes.target
        job.made += rows
        cut.append((job, at, at + rows))
        at += rows
        if job.made == job.passes.rows:
            waiting.popleft()
    return cut
