"""NoiseTunnel over Integrated Gradients through captum (SmoothGrad and its kin).

Smilkov et al. 2017, arXiv 1706.03825; smoothgrad_sq: Hooker et al. 2019, arXiv 1806.10758: the mean of
squared attributions over noisy copies of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histoxai.explainers.base import (
    Batch,
    Explainer,
    RawSpec,
    channels_to_plane,
    one_by_one,
    without_weight_gradients,
)
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Options:
    """samples: noisy copies. stdev: of the noise, inputs being in 0..1. steps: of each IG. kind: nt_type."""

    samples: int = bounded(5, ge=1)
    stdev: float = bounded(1.0, ge=0)
    steps: int = bounded(50, ge=1)
    kind: str = bounded("smoothgrad_sq", choices=("smoothgrad", "smoothgrad_sq", "vargrad"))

    def __post_init__(self) -> None:
        check_bounds(self)


class NoiseTunnel(Explainer):
    """Captum's NoiseTunnel over IG: 5 samples, smoothgrad_sq, stdev 1.0, 50 steps (the study's settings).

    Source: arXiv 1706.03825 and 1806.10758.
    """

    Options = Options

    def raw_specs(self, model: nn.Module, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Attributions (3, H, W); not negative where `kind` squares them."""
        return {"": RawSpec((3, *size))}

    def attribute(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Patch by patch: captum draws a whole batch's noise at once, so a patch's place would change it."""
        import torch
        from captum.attr import IntegratedGradients as CaptumIG
        from captum.attr import NoiseTunnel as CaptumNT

        method = CaptumNT(CaptumIG(model))

        def explain(image: torch.Tensor, target: int, seed: int) -> np.ndarray:
            # captum draws from torch's global generator; fork_rng gives the caller's state back.
            devices = [image.device] if image.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                maps = method.attribute(
                    image,
                    nt_type=self.options.kind,
                    nt_samples=self.options.samples,
                    stdevs=self.options.stdev,
                    baselines=0.0,
                    target=target,
                    n_steps=self.options.steps,
                    internal_batch_size=self.micro_batch,
                )
            return maps[0].detach().float().cpu().numpy()

        with without_weight_gradients(model):
            return {"": one_by_one(batch, explain)}

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """Absolute value, min-max per channel, sum, min-max."""
        return channels_to_plane(raw[""], constant)
