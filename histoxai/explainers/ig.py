"""Integrated Gradients through captum.

Sundararajan, Taly and Yan 2017, arXiv 1703.01365: attribution_i = (x_i - b_i) times the integral of
dF/dx_i along the straight line from baseline b to x, here by Gauss-Legendre quadrature.
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
    """steps: points of the quadrature. baseline: one value in 0..1 for all pixels (0 is black)."""

    steps: int = bounded(100, ge=1)
    baseline: float = bounded(0.0, ge=0, le=1)

    def __post_init__(self) -> None:
        check_bounds(self)


class IntegratedGradients(Explainer):
    """Captum's IntegratedGradients of the target's logit, black baseline, 100 steps (the study's settings).

    Source: arXiv 1703.01365.
    """

    Options = Options

    def raw_specs(self, model: nn.Module, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Signed attributions (3, H, W)."""
        return {"": RawSpec((3, *size))}

    def attribute(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Patch by patch, with captum's internal batches of `micro_batch` steps."""
        from captum.attr import IntegratedGradients as CaptumIG

        method = CaptumIG(model)

        def explain(image: torch.Tensor, target: int, seed: int) -> np.ndarray:
            del seed  # nothing random
            maps = method.attribute(
                image,
                baselines=self.options.baseline,
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
