"""The null model of chance: random maps, pixel by pixel or smooth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.explain.bases.null_model import NullModel
from histoxai.settings import bounded, check_bounds


@dataclass(frozen=True)
class Options:
    """sigma: of the Gaussian in px that makes the map smooth; 0 leaves every pixel by itself."""

    sigma: float = bounded(0.0, ge=0)

    def __post_init__(self) -> None:
        check_bounds(self)


class Random(NullModel):
    """Null model: uniform noise, or with -O random.sigma=16 as smooth as maps of coarse layers are.

    Source: closed form; smooth maps are the simulated chance of docs/study.md.
    """

    Options = Options

    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Uniform in 0..1, smoothed and scaled back to 0..1 where sigma is set."""
        from scipy import ndimage

        noise = np.random.default_rng(seed).random(image.shape[:2])
        if not self.options.sigma:
            return noise
        smooth = ndimage.gaussian_filter(noise, self.options.sigma, mode="wrap")
        return (smooth - smooth.min()) / max(np.ptp(smooth), 1e-12)
