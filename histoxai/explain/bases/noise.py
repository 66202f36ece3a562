"""Attributions averaged over noisy copies of the patch.

Smilkov et al. 2017, arXiv 1706.03825 (mean); Hooker et al. 2019, arXiv 1806.10758 (mean square); Adebayo et al. 2018,
arXiv 1810.03307 (variance). captum draws the noise of a whole batch at once, so that a patch's position would change
its map by 96 %. Here each patch has the noise that captum draws for it alone from its seed, always on the CPU.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.sampling import GradientSampling

if TYPE_CHECKING:
    import torch
    from torch import nn

NOISE_KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


def draw_noise(image: torch.Tensor, options: Any, seed: int) -> tuple[float, torch.Tensor]:
    """Standard deviation for a patch (3, H, W) on the host, and noise (samples, 3, H, W) float32 as captum draws it.

    options: samples, stdev, and level, which replaces stdev by a share of the patch's range of values if not 0.
    """
    import torch

    stdev = options.level * float(image.max() - image.min()) if options.level else options.stdev
    generator = torch.Generator().manual_seed(seed)
    spread = torch.full((options.samples, *image.shape), stdev, dtype=torch.float32)
    return stdev, torch.normal(0.0, spread, generator=generator)


class NoisyCopies(GradientSampling):
    """Mean, mean square or variance of an attribution over noisy copies; options: samples, stdev, level, kind."""

    library_package = "captum"

    def prepare(self) -> None:
        import torch

        from histoxai.networks.inference import to_device

        super().prepare()
        noise = draw_noise(self.host_image, self.options, self.seed)[1]
        self.noisy = torch.add(self.image, to_device(noise, self.image.device))
        self.mean, self.square = (torch.zeros_like(self.image) for _ in range(2))

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        out.copy_(self.noisy[start:stop])

    def accumulate(self, i: int, gradient: torch.Tensor) -> None:
        """Take the gradient as the attribution of noisy copy i."""
        self.add_attribution(gradient)

    def add_attribution(self, attribution: torch.Tensor) -> None:
        """Add one noisy copy's attribution (3, H, W)."""
        self.mean.add_(attribution)
        self.square.addcmul_(attribution, attribution)

    def summary(self) -> torch.Tensor:
        """Mean, mean square or variance over the copies."""
        mean, square = self.mean / self.options.samples, self.square / self.options.samples
        results = {"smoothgrad": mean, "smoothgrad_sq": square, "vargrad": square - mean * mean}
        return results[self.options.kind]

    @abstractmethod
    def captum_method(self, module: nn.Module) -> tuple[Any, dict[str, Any]]:
        """captum's method for one noisy copy, and arguments of its `attribute`."""

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's NoiseTunnel, given the same noise."""
        from captum.attr import NoiseTunnel

        o = self.options
        stdev, noise = draw_noise(image.float(), o, seed)
        inner, arguments = self.captum_method(module)

        class SameNoise(NoiseTunnel):  # captum draws in the dtype of its inputs, which may be float64
            @staticmethod
            def _add_noise_to_input(input: torch.Tensor, stdev: float, nt_samples_partition: int) -> torch.Tensor:
                return input + noise.to(input)

        attribution = SameNoise(inner).attribute(
            image[None], nt_type=o.kind, nt_samples=o.samples, stdevs=float(stdev), target=target, **arguments
        )
        return {"": attribution[0].detach().cpu().numpy()}
