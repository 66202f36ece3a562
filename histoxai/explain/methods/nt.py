"""NoiseTunnel over Integrated Gradients (SmoothGrad and its kin).

Smilkov et al. 2017, arXiv 1706.03825; smoothgrad_sq: Hooker et al. 2019, arXiv 1806.10758: the mean of
squared attributions over noisy copies of the input; vargrad: Adebayo et al. 2018, arXiv 1810.03307.

Replaced here: captum's loop, which draws a whole batch's noise at once, so that a patch's place changes its map
(96 % difference), and keeps samples x steps x patches in one pass (5.5 GB at 256 px). The noise is what captum
draws for the patch alone from the same seed; always on the CPU, so that a GPU sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from histoxai.explain.bases.method import PixelMethod, Batch, Map
from histoxai.explain.methods.ig import gauss_legendre
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


@dataclass(frozen=True)
class Options:
    """samples: noisy copies. stdev: of the noise, inputs being in 0..1. steps: of each IG. kind: nt_type.

    level: the noise as a share of the patch's own range of values (SmoothGrad's sigma / (max - min)), instead of
    `stdev` where it is not 0.
    """

    samples: int = bounded(5, ge=1)
    stdev: float = bounded(1.0, ge=0)
    level: float = bounded(0.0, ge=0)
    steps: int = bounded(50, ge=1)
    kind: str = bounded("smoothgrad_sq", choices=KINDS)

    def __post_init__(self) -> None:
        check_bounds(self)


def noise_of(image: torch.Tensor, options: Any, seed: int) -> tuple[float, torch.Tensor]:
    """The standard deviation for a patch (3, H, W), and noise (samples, 3, H, W) as captum draws it."""
    import torch

    stdev = options.level * float(image.max() - image.min()) if options.level else options.stdev
    generator = torch.Generator().manual_seed(seed)
    spread = torch.full((options.samples, *image.shape), stdev, dtype=torch.float32)
    return stdev, torch.normal(0.0, spread, generator=generator)


class _Tunnel(PatchInputs):
    """The noisy copies one after the other, each along its path from black, or as it is where steps is 0."""

    def __init__(self, image: torch.Tensor, target: int, seed: int, options: Any, steps: int) -> None:
        import torch

        super().__init__(options.samples * max(1, steps), target)
        self._kind, self._samples, self._steps = options.kind, options.samples, steps
        noise = noise_of(image, options, seed)[1].to(image.device)
        self._noisy = torch.add(image, noise)
        if steps:
            points, self._weights = gauss_legendre(steps)
            self._points = points.to(image.device)
        self._gradient, self._mean, self._square = (torch.zeros_like(image) for _ in range(3))

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        import torch

        if not self._steps:
            out.copy_(self._noisy[start:stop])
            return
        for place, row in zip(range(start, stop), out, strict=True):
            sample, step = divmod(place, self._steps)
            torch.mul(self._noisy[sample], self._points[step], out=row)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        for place, gradient in zip(range(start, stop), found, strict=True):
            if not self._steps:
                self._finish(gradient)
                continue
            sample, step = divmod(place, self._steps)
            self._gradient.add_(gradient, alpha=self._weights[step])
            if step == self._steps - 1:
                self._finish(self._gradient * self._noisy[sample])
                self._gradient.zero_()

    def _finish(self, attribution: torch.Tensor) -> None:
        self._mean.add_(attribution)
        self._square.addcmul_(attribution, attribution)

    def result(self) -> Map:
        mean, square = self._mean / self._samples, self._square / self._samples
        made = {"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean * mean}[self._kind]
        return Map({"": made.cpu().numpy()})


class NoiseTunnel(PixelMethod):
    """captum's NoiseTunnel over IG: 5 samples, smoothgrad_sq, stdev 1.0, 50 steps (the study's settings).

    Source: arXiv 1706.03825 and 1806.10758.
    """

    Options: ClassVar[type] = Options

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Samples and steps of several patches share micro-batches."""
        images = net.ready(batch.images)
        steps = getattr(self.options, "steps", 0)
        work = (
            (i, _Tunnel(images[i], int(batch.targets[i]), int(batch.seeds[i]), self.options, steps))
            for i in range(len(batch))
        )
        yield from run_packed(net, net.gradient, work, images.shape[1:])

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, over its IG (black baseline) or its plain gradient."""
        from captum.attr import IntegratedGradients as CaptumIG
        from captum.attr import NoiseTunnel as CaptumNT
        from captum.attr import Saliency

        o = self.options
        stdev, noise = noise_of(image.float(), o, seed)
        more: dict[str, Any] = {"abs": False}
        if steps := getattr(o, "steps", 0):
            more = {"baselines": 0.0, "n_steps": steps}
        # captum draws in the dtype of its inputs; the noise is ours in float64 too, which only a subclass can say
        inner = CaptumIG(module) if steps else Saliency(module)

        class Same(CaptumNT):
            @staticmethod
            def _add_noise_to_input(input: torch.Tensor, stdev: float, nt_samples_partition: int) -> torch.Tensor:
                return input + noise.to(input)

        made = Same(inner).attribute(
            image[None], nt_type=o.kind, nt_samples=o.samples, stdevs=float(stdev), target=target, **more
        )
        return {"": made[0].detach().cpu().numpy()}

    @classmethod
    def passes(cls, options: Any) -> str:
        """Samples times steps."""
        return f"{options.samples * max(1, getattr(options, 'steps', 0))} forward + backward"
