"""Occlusion.

Zeiler and Fergus 2014, arXiv 1311.2901: how much the target's logit falls when a square of the patch is covered, as the
square slides over it. A pixel has the mean over the squares that cover it.

captum's loop is replaced: it computes the uncovered patch alone and pads nothing, so that last bits change with the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.explain.bases.method import Map, MethodOptions, RawSpec
from histoxai.explain.bases.sampling import Sampling, is_same_output
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options(MethodOptions):
    """window: side of the square in px. stride: its steps in px, at most the window. baseline: its colour in 0..1."""

    window: int = bounded(32, ge=1)
    stride: int = bounded(16, ge=1)
    baseline: float = bounded(0.0, ge=0, le=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > self.window:
            raise UsageError(f"--stride: {self.stride} must be at most the window, {self.window}: pixels are left out")


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side, as captum has them: the last window may reach over the border."""
    return [k * stride for k in range(1 + -(-(length - window) // stride))]


class Occlusion(Sampling):
    """captum's Occlusion of the target's logit: black squares of 32 px in steps of 16."""

    name = "occlusion"
    label = "Occlusion"
    family = "perturbation"
    citations = ("zeiler2014",)
    Options = Options
    library_package = "captum"
    channels = 1
    output = "logit"

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Also raises InputRefused if the square does not fit into patches of this size."""
        o = self.options
        if o.window > min(size):
            raise InputRefused(
                f"occlusion: squares of {o.window} px do not fit patches of {size[1]} x {size[0]} px; choose "
                f"-O occlusion.window up to {min(size)}"
            )
        return super().raw_specs(net, size)

    def prepare(self) -> None:
        """List the squares; the first copy is the uncovered patch."""
        w, stride = self.options.window, self.options.stride
        rows, columns = (window_starts(n, w, stride) for n in self.image.shape[1:])
        self._squares = [(slice(y, y + w), slice(x, x + w)) for y in rows for x in columns]
        self.rows = 1 + len(self._squares)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write the patch, from the second copy on with one square covered."""
        out.copy_(self.image)
        for row, square in zip(out[1 if start == 0 else 0 :], self._squares[max(start, 1) - 1 : stop - 1], strict=True):
            row[:, *square] = self.options.baseline

    def reduce(self, outputs: torch.Tensor) -> Map:
        """Mean fall of the logit over the squares that cover a pixel."""
        logits = outputs.double().numpy()
        if is_same_output(logits):
            logits = np.full_like(logits, logits[0])
        total, count = np.zeros(self.image.shape[1:]), np.zeros(self.image.shape[1:])
        for square, logit in zip(self._squares, logits[1:], strict=True):
            total[square] += logits[0] - logit
            count[square] += 1
        return Map({"": (total / count)[None].astype(np.float32)})

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, one square at a time."""
        from captum.attr import Occlusion as CaptumOcclusion

        o = self.options
        attribution = CaptumOcclusion(module).attribute(
            image[None], (3, o.window, o.window), (3, o.stride, o.stride), baselines=o.baseline, target=target
        )
        return {"": attribution[0, :1].detach().cpu().numpy()}

    @classmethod
    def cost(cls, options: Any) -> str:
        n = len(window_starts(256, options.window, options.stride)) ** 2 + 1
        return f"{n} forward at 256 px"
