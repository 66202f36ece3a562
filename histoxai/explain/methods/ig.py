"""Integrated Gradients.

Sundararajan, Taly and Yan 2017, arXiv 1703.01365: attribution_i = (x_i - b_i) times the integral of dF/dx_i along the
straight line from baseline b to x, here by Gauss-Legendre quadrature.

captum's loop is replaced: it takes all steps of a patch in one pass (2.9 GB at 256 px), or pads none of them. Packed
with the steps of other patches they run at the speed of the bare gradient (`scripts/bench explain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core.errors import UsageError
from histoxai.explain.bases.method import Map, MethodOptions
from histoxai.explain.bases.path import CompleteGradients, completeness_error, gauss_legendre
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch
    from torch import nn

FIRST_STEPS = 16  # steps of the first round of `steps=auto`


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of Integrated Gradients.

    steps: points of the quadrature, or auto: doubled from 16 until `tolerance` is met, at most `max_steps`. baseline:
    one value in 0..1 for all pixels (0 is black). tolerance: largest completeness error, the difference between the sum
    of attributions and F(x) - F(b) as a share of the latter.
    """

    steps: int | str = 100
    baseline: float = bounded(0.0, ge=0, le=1)
    tolerance: float = bounded(0.02, gt=0)
    max_steps: int = bounded(512, ge=FIRST_STEPS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps != "auto" and (isinstance(self.steps, str) or self.steps < 1):
            raise UsageError(f"--steps: {self.steps} must be at least 1, or auto")


class IntegratedGradients(CompleteGradients):
    """Integrated Gradients of the target's logit as captum's, black baseline, 100 steps (the study's settings)."""

    name = "ig"
    label = "Integrated Gradients"
    family = "gradient"
    citations = ("sundararajan2017",)
    Options = Options
    checks = ("completeness_error", "steps")
    library_package = "captum"

    def prepare(self) -> None:
        import torch

        self._delta = self.image - self.options.baseline
        self._sum = torch.zeros_like(self._delta)
        self.rows = 0
        self._start_round(FIRST_STEPS if self.options.steps == "auto" else int(self.options.steps))

    def _start_round(self, steps: int) -> None:
        from histoxai.networks.inference import to_device

        # the points of one round are not points of the next, so sums start again
        self._first, self.steps = self.rows, steps
        self.rows += steps
        points, self._weights = gauss_legendre(steps)
        self._points = to_device(points, self._delta.device)
        self._sum.zero_()

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write the points of steps [start, stop) between baseline and patch."""
        import torch

        torch.mul(self._delta, self._points[start - self._first : stop - self._first], out=out)
        if self.options.baseline:
            out.add_(self.options.baseline)

    def accumulate(self, i: int, gradient: torch.Tensor) -> None:
        """Add the weighted gradient; after the last step of a round, double the steps if its error is too large."""
        self._sum.add_(gradient, alpha=self._weights[i - self._first])
        more = self.options.steps == "auto" and 2 * self.steps <= self.options.max_steps
        if more and i == self.rows - 1 and self._error() > self.options.tolerance:
            self._start_round(2 * self.steps)

    def _error(self) -> float:
        attribution = self.summary().cpu().numpy()  # waits: steps=auto alone, whose error decides on more steps
        return completeness_error(attribution, self.difference)

    def summary(self) -> torch.Tensor:
        return self._sum * self._delta

    def reduce(self, attribution: torch.Tensor) -> Map:
        values = attribution.numpy()
        return Map(
            {"": values}, {"completeness_error": completeness_error(values, self.difference), "steps": self.steps}
        )

    def why_no_library(self) -> str:
        return "captum has no steps=auto; give a number of steps" if self.options.steps == "auto" else ""

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, all steps in one pass."""
        from captum.attr import IntegratedGradients as CaptumIG

        o = self.options
        maps = CaptumIG(module).attribute(image[None], baselines=o.baseline, target=target, n_steps=o.steps)
        return {"": maps[0].detach().cpu().numpy()}

    def library_map(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> Map:
        return Map(self.library(module, image, target, seed), {"steps": self.options.steps})

    @classmethod
    def cost(cls, options: Any) -> str:
        steps = f"{FIRST_STEPS} to {2 * options.max_steps - FIRST_STEPS}" if options.steps == "auto" else options.steps
        return f"{steps} forward + backward"
