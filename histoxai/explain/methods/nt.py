"""NoiseTunnel over Integrated Gradients: SmoothGrad, SmoothGrad squared or VarGrad of IG.

captum's loop is replaced: it keeps samples x steps x patches in one pass (5.5 GB at 256 px), and a patch's position
changes its noise (bases/noise.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histoxai.explain.bases.method import MethodOptions
from histoxai.explain.bases.noise import NOISE_KINDS, NoisyCopies
from histoxai.explain.bases.path import gauss_legendre
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of NoiseTunnel.

    samples: noisy copies. stdev: standard deviation of the noise; inputs are in 0..1. level: the noise as a share of
    the patch's own range of values (SmoothGrad's sigma / (max - min)); replaces `stdev` if not 0. steps: of each IG.
    kind: captum's nt_type.
    """

    samples: int = bounded(5, ge=1)
    stdev: float = bounded(1.0, ge=0)
    level: float = bounded(0.0, ge=0)
    steps: int = bounded(50, ge=1)
    kind: str = bounded("smoothgrad_sq", choices=NOISE_KINDS)


class NoiseTunnel(NoisyCopies):
    """captum's NoiseTunnel over IG: 5 samples, smoothgrad_sq, stdev 1.0, 50 steps (the study's settings)."""

    name = "nt"
    label = "NoiseTunnel (SmoothGrad of IG)"
    family = "gradient"
    citations = ("smilkov2017", "hooker2019")
    Options = Options

    def prepare(self) -> None:
        """Draw the noise; every noisy copy has its own path from black."""
        import torch

        super().prepare()
        self.rows *= self.options.steps
        points, self._weights = gauss_legendre(self.options.steps)
        self._points = points[:, 0].to(self.image.device)
        self._gradient = torch.zeros_like(self.image)

    def perturb(self, i: int) -> torch.Tensor:
        """A point on the path of one noisy copy; copy after copy."""
        sample, step = divmod(i, self.options.steps)
        return self.noisy[sample] * self._points[step]

    def accumulate(self, i: int, gradient: torch.Tensor) -> None:
        """Add up the gradients of a path; at its end, add the copy's attribution."""
        sample, step = divmod(i, self.options.steps)
        self._gradient.add_(gradient, alpha=self._weights[step])
        if step == self.options.steps - 1:
            self.add_attribution(self._gradient * self.noisy[sample])
            self._gradient.zero_()

    def captum_method(self, module: nn.Module) -> tuple[Any, dict[str, Any]]:
        from captum.attr import IntegratedGradients as CaptumIG

        return CaptumIG(module), {"baselines": 0.0, "n_steps": self.options.steps}

    @classmethod
    def cost(cls, options: Any) -> str:
        return f"{options.samples * options.steps} forward + backward"
