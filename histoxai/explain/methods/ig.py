"""Integrated Gradients.

Sundararajan, Taly and Yan 2017, arXiv 1703.01365: attribution_i = (x_i - b_i) times the integral of
dF/dx_i along the straight line from baseline b to x, here by Gauss-Legendre quadrature.

Replaced here: captum's loop, which takes all steps of a patch in one pass (2.9 GB at 256 px) or pads none of them;
packed with the steps of other patches they run at the speed of the bare gradient (`scripts/bench explain`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core.errors import UsageError
from histoxai.explain.bases.method import PixelMethod, Batch, Map
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

FIRST = 16  # steps of the first round where they are found by themselves


@dataclass(frozen=True)
class Options:
    """steps: points of the quadrature, or auto: doubled from 16 until `tolerance` is met, at most `max_steps`.

    baseline: one value in 0..1 for all pixels (0 is black). tolerance: of the completeness error, the difference
    between the sum of attributions and F(x) - F(b), as a share of the latter.
    """

    steps: int | str = 100
    baseline: float = bounded(0.0, ge=0, le=1)
    tolerance: float = bounded(0.02, gt=0)
    max_steps: int = bounded(512, ge=FIRST)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.steps != "auto" and (isinstance(self.steps, str) or self.steps < 1):
            raise UsageError(f"--steps: {self.steps} must be at least 1, or auto")


def gauss_legendre(steps: int) -> tuple[torch.Tensor, list[float]]:
    """Points (steps, 1, 1, 1) float32 in 0..1 and their weights, which add up to 1."""
    import torch

    points, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((0.5 * (points + 1)).astype(np.float32)).view(-1, 1, 1, 1), (0.5 * weights).tolist()


class _Path(PatchInputs):
    """The points between baseline and image; gradients are added up in the order of steps, whatever cuts them."""

    def __init__(self, image: torch.Tensor, target: int, options: Options, difference: float) -> None:
        import torch

        super().__init__(FIRST if options.steps == "auto" else int(options.steps), target)
        self._options, self._difference = options, difference
        self._delta = image - options.baseline
        self._sum = torch.zeros_like(self._delta)
        self._from, self.steps = 0, self.rows
        self._begin()

    def _begin(self) -> None:
        points, self._weights = gauss_legendre(self.steps)
        self._points = points.to(self._delta.device)
        self._sum.zero_()

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        import torch

        torch.mul(self._delta, self._points[start - self._from : stop - self._from], out=out)
        if self._options.baseline:
            out.add_(self._options.baseline)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        for weight, gradient in zip(self._weights[start - self._from : stop - self._from], found, strict=True):
            self._sum.add_(gradient, alpha=weight)
        if stop == self.rows and self._options.steps == "auto" and self._error() > self._options.tolerance:
            self._more()

    def _more(self) -> None:
        # the points of one round are no points of the next: it starts over with twice as many
        if 2 * self.steps <= self._options.max_steps:
            self._from, self.steps = self.rows, 2 * self.steps
            self.rows += self.steps
            self._begin()

    def _attribution(self) -> np.ndarray:
        return (self._sum * self._delta).cpu().numpy()

    def _error(self) -> float:
        return missing_share(self._attribution(), self._difference)

    def result(self) -> Map:
        return Map({"": self._attribution()}, {"completeness_error": self._error(), "steps": self.steps})


class IntegratedGradients(PixelMethod):
    """Integrated Gradients of the target's logit as captum's, black baseline, 100 steps (the study's settings).

    Source: arXiv 1703.01365.
    """

    Options = Options
    checks = ("completeness_error", "steps")

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Steps of several patches share micro-batches."""
        images = net.ready(batch.images)
        reached = rise(net, images, batch.targets, self.options.baseline)
        work = (
            (i, _Path(images[i], int(batch.targets[i]), self.options, float(reached[i]))) for i in range(len(batch))
        )
        yield from run_packed(net, net.gradient, work, images.shape[1:])

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray] | None:
        """Captum's, all steps in one pass; it does not look for their number."""
        from captum.attr import IntegratedGradients as CaptumIG

        o = self.options
        if o.steps == "auto":
            return None
        maps = CaptumIG(module).attribute(image[None], baselines=o.baseline, target=target, n_steps=o.steps)
        return {"": maps[0].detach().cpu().numpy()}

    @classmethod
    def passes(cls, options: Any) -> str:
        """One forward and backward pass a step."""
        steps = f"{FIRST} to {2 * options.max_steps - FIRST}" if options.steps == "auto" else options.steps
        return f"{steps} forward + backward"


def missing_share(attribution: np.ndarray, difference: float) -> float:
    """The completeness error: |sum of attributions - (F(x) - F(b))| / |F(x) - F(b)|; NaN where the latter is 0."""
    return abs(float(attribution.sum(dtype=np.float64)) - difference) / abs(difference) if difference else float("nan")


def rise(net: Network, images: torch.Tensor, targets: torch.Tensor, baseline: float) -> np.ndarray:
    """F(x) - F(b) (n,) of each patch's target logit, which attributions should add up to."""
    import torch

    from histoxai.explain.network import of_targets

    # the baseline is one more patch; the last micro-batch is padded as everywhere
    rows = torch.cat([images, torch.full_like(images[:1], baseline)])
    short = -len(rows) % net.asked
    rows = torch.cat([rows, rows[-1:].expand(short, -1, -1, -1)]) if short else rows
    nothing = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    logits = torch.cat(
        [
            part
            for a in range(0, len(rows), net.asked)
            for part in net.run(lambda x, _: net.logits(x), net.ready(rows[a : a + net.asked]), nothing)
        ]
    ).double()
    goal = targets.to(logits.device)
    return (of_targets(logits[: len(images)], goal) - logits[len(images)][goal]).cpu().numpy()
