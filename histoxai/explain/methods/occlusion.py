"""Occlusion.

Zeiler and Fergus 2014, arXiv 1311.2901: how much the target's logit falls when a square of the patch is covered,
as the square slides over it; a pixel has the mean of the squares that cover it.

Replaced here: captum's loop, which computes the uncovered patch alone and pads nothing, so that last bits change with
the batch; packed with the squares of other patches they fill whole micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.explain.bases.method import PixelMethod, Batch, Map, RawSpec
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options:
    """window: side of the square in px. stride: its steps in px, at most the window. baseline: its colour in 0..1."""

    window: int = bounded(32, ge=1)
    stride: int = bounded(16, ge=1)
    baseline: float = bounded(0.0, ge=0, le=1)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.stride > self.window:
            raise UsageError(f"--stride: {self.stride} must be at most the window, {self.window}: pixels are left out")


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: captum's, the last one cut off by the border."""
    return [k * stride for k in range(1 + -(-(length - window) // stride))]


class _Covered(PatchInputs):
    """The patch as it is, then with each square covered."""

    def __init__(self, image: torch.Tensor, target: int, options: Options) -> None:
        import torch

        height, width = image.shape[1:]
        w = options.window
        rows, columns = (starts(n, w, options.stride) for n in (height, width))
        self._squares = [(slice(y, y + w), slice(x, x + w)) for y in rows for x in columns]
        super().__init__(1 + len(self._squares), target)
        self._image, self._baseline = image, options.baseline
        self._logits = torch.empty(self.rows, device=image.device)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        out.copy_(self._image)
        for place, row in zip(range(start, stop), out, strict=True):
            if place:
                row[:, *self._squares[place - 1]] = self._baseline

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        self._logits[start:stop] = found

    def result(self) -> Map:
        logits = self._logits.double().cpu().numpy()
        total, count = np.zeros(self._image.shape[1:]), np.zeros(self._image.shape[1:])
        for square, logit in zip(self._squares, logits[1:], strict=True):
            total[square] += logits[0] - logit
            count[square] += 1
        return Map({"": (total / count)[None].astype(np.float32)})


class Occlusion(PixelMethod):
    """captum's Occlusion of the target's logit: black squares of 32 px in steps of 16.

    Source: arXiv 1311.2901.
    """

    Options = Options
    channels = 1

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """The mean fall of the logit (1, H, W).

        Raises InputRefused where the square does not fit.
        """
        o = self.options
        if o.window > min(size):
            raise InputRefused(
                f"occlusion: squares of {o.window} px do not fit patches of {size[1]} x {size[0]} px; choose "
                f"-O occlusion.window up to {min(size)}"
            )
        return super().raw_specs(net, size)

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Squares of several patches share micro-batches."""
        images = net.ready(batch.images)
        work = ((i, _Covered(images[i], int(batch.targets[i]), self.options)) for i in range(len(batch)))
        yield from run_packed(net, net.logit, work, images.shape[1:])

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, one square at a time."""
        from captum.attr import Occlusion as Library

        o = self.options
        made = Library(module).attribute(
            image[None], (3, o.window, o.window), (3, o.stride, o.stride), baselines=o.baseline, target=target
        )
        return {"": made[0, :1].detach().cpu().numpy()}

    @classmethod
    def passes(cls, options: Any) -> str:
        """One a square, and one."""
        n = len(starts(256, options.window, options.stride)) ** 2 + 1
        return f"{n} forward at 256 px"
