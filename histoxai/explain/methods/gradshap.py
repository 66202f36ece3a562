"""GradientSHAP (expected gradients).

Lundberg and Lee 2017, arXiv 1705.07874; Erion et al. 2021, arXiv 1906.10670: the mean of gradient times difference to
the baseline, at random points between the baseline and noisy copies of the patch.

captum's draws are replaced: they come from global generators for a whole batch, so that a patch's position changes its
map. Here they are what captum draws for the patch alone, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from histoxai.explain.bases.method import Map, MethodOptions
from histoxai.explain.bases.noise import draw_noise
from histoxai.explain.bases.path import CompleteGradients, completeness_error
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of GradientSHAP.

    samples: random points. stdev: standard deviation of the noise. level: the noise as a share of the patch's range of
    values; replaces stdev if not 0. baseline: one value in 0..1 for all pixels.
    """

    samples: int = bounded(50, ge=1)
    stdev: float = bounded(0.0, ge=0)
    level: float = bounded(0.0, ge=0)
    baseline: float = bounded(0.0, ge=0, le=1)


def draw_positions(seed: int, samples: int) -> np.ndarray:
    """Positions (samples,) float32 in 0..1 of the points between baseline (0) and noisy copy (1)."""
    return np.random.RandomState(seed).uniform(0.0, 1.0, samples).astype(np.float32)


class GradientSHAP(CompleteGradients):
    """captum's GradientShap of the target's logit: 50 points, black baseline, no noise."""

    name = "gradshap"
    label = "GradientSHAP"
    family = "gradient"
    citations = ("lundberg2017",)
    Options = Options
    library_package = "captum"

    def prepare(self) -> None:
        import torch

        from histoxai.networks.inference import to_device

        super().prepare()
        noise = draw_noise(self.host_image, self.options, self.seed)[1]
        self._noisy = self.image + to_device(noise, self.image.device)
        self._positions = to_device(draw_positions(self.seed, self.rows), self.image.device)[:, None, None, None]
        self._sum = torch.zeros_like(self.image)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        position = self._positions[start:stop]
        out.copy_(self._noisy[start:stop] * position + (1.0 - position) * self.options.baseline)

    def accumulate(self, i: int, gradient: torch.Tensor) -> None:
        self._sum.addcmul_(self._noisy[i] - self.options.baseline, gradient)

    def summary(self) -> torch.Tensor:
        return self._sum / self.rows

    def reduce(self, attribution: torch.Tensor) -> Map:
        values = attribution.numpy()
        return Map({"": values}, {"completeness_error": completeness_error(values, self.difference)})

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, given the same draws."""
        import torch
        from captum.attr import GradientShap, NoiseTunnel

        o = self.options
        stdev, noise = draw_noise(image.float(), o, seed)
        baselines = torch.full_like(image[None], o.baseline)
        with (
            mock.patch.object(NoiseTunnel, "_add_noise_to_input", staticmethod(lambda x, *_: x + noise.to(x))),
            mock.patch("numpy.random.uniform", return_value=draw_positions(seed, o.samples)),
        ):
            attribution = GradientShap(module).attribute(image[None], baselines, o.samples, float(stdev), target=target)
        return {"": attribution[0].detach().cpu().numpy()}
