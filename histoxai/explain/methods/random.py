"""Null model of chance: random maps, pixel by pixel or smooth.

Closed form; smooth maps are the simulated chance of docs/study.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.explain.bases.method import MethodOptions
from histoxai.explain.bases.null_model import NullModel
from histoxai.settings import bounded


@dataclass(frozen=True)
class Options(MethodOptions):
    """sigma: standard deviation in px of the Gaussian that smooths the map; 0 leaves every pixel independent."""

    sigma: float = bounded(0.0, ge=0)


class Random(NullModel):
    """Null model: uniform noise, or with -O random.sigma=16 as smooth as maps of coarse layers are."""

    name = "random"
    label = "Random map"
    Options = Options

    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Uniform in 0..1; smoothed and scaled back to 0..1 if sigma is not 0."""
        from scipy import ndimage

        noise = np.random.default_rng(seed).random(image.shape[:2])
        if not self.options.sigma:
            return noise
        smooth = ndimage.gaussian_filter(noise, self.options.sigma, mode="wrap")
        return (smooth - smooth.min()) / max(np.ptp(smooth), 1e-12)
