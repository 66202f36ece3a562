"""GradientSHAP (expected gradients).

Lundberg and Lee 2017, arXiv 1705.07874; Erion et al. 2021, arXiv 1906.10670: the mean of gradient times difference to
the baseline at random points between the baseline and noisy copies of the patch.

Replaced here: captum draws from numpy's and torch's global generators for a whole batch, so that a patch's place
changes its map. The draws are captum's for the patch alone, on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from histoxai.explain.bases.method import PixelMethod, Batch, Map
from histoxai.explain.methods.ig import missing_share, rise
from histoxai.explain.methods.nt import noise_of
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options:
    """samples: points. stdev: of the noise; level: instead of it, as a share of the patch's range. baseline: 0..1."""

    samples: int = bounded(50, ge=1)
    stdev: float = bounded(0.0, ge=0)
    level: float = bounded(0.0, ge=0)
    baseline: float = bounded(0.0, ge=0, le=1)

    def __post_init__(self) -> None:
        check_bounds(self)


def places(seed: int, samples: int) -> np.ndarray:
    """Where between baseline and patch the points lie (samples,), in 0..1."""
    return np.random.RandomState(seed).uniform(0.0, 1.0, samples).astype(np.float32)


class _Points(PatchInputs):
    def __init__(self, image: torch.Tensor, target: int, seed: int, options: Options, wanted: float) -> None:
        import torch

        super().__init__(options.samples, target)
        self._baseline, self._wanted = options.baseline, wanted
        self._noisy = image + noise_of(image, options, seed)[1].to(image.device)
        self._at = torch.from_numpy(places(seed, options.samples)).to(image.device)
        self._sum = torch.zeros_like(image)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        for row, noisy, at in zip(out, self._noisy[start:stop], self._at[start:stop], strict=True):
            row.copy_(noisy * at + (1.0 - at) * self._baseline)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        for noisy, gradient in zip(self._noisy[start:stop], found, strict=True):
            self._sum.addcmul_(noisy - self._baseline, gradient)

    def result(self) -> Map:
        raw = (self._sum / self.rows).cpu().numpy()
        return Map({"": raw}, {"completeness_error": missing_share(raw, self._wanted)})


class GradientSHAP(PixelMethod):
    """captum's GradientShap of the target's logit: 50 points, black baseline, no noise.

    Source: arXiv 1705.07874.
    """

    Options = Options
    checks = ("completeness_error",)

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Points of several patches share micro-batches."""
        images = net.ready(batch.images)
        wanted = rise(net, images, batch.targets, self.options.baseline)
        work = (
            (i, _Points(images[i], int(batch.targets[i]), int(batch.seeds[i]), self.options, float(wanted[i])))
            for i in range(len(batch))
        )
        yield from run_packed(net, net.gradient, work, images.shape[1:])

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, given the same draws."""
        import torch
        from captum.attr import GradientShap as Library
        from captum.attr import NoiseTunnel

        o = self.options
        stdev, noise = noise_of(image.float(), o, seed)
        at = places(seed, o.samples)
        baselines = torch.full_like(image[None], o.baseline)
        with (
            mock.patch.object(NoiseTunnel, "_add_noise_to_input", staticmethod(lambda x, *_: x + noise.to(x))),
            mock.patch("numpy.random.uniform", return_value=at),
        ):
            made = Library(module).attribute(image[None], baselines, o.samples, float(stdev), target=target)
        return {"": made[0].detach().cpu().numpy()}

    @classmethod
    def passes(cls, options: Any) -> str:
        """One a point."""
        return f"{options.samples} forward + backward"
