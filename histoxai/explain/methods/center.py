"""Null model of position: a Gaussian in the middle, where photographers and tile cutters put things."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histoxai.explain.bases.method import MethodOptions
from histoxai.explain.bases.null_model import NullModel
from histoxai.settings import bounded


@dataclass(frozen=True)
class Options(MethodOptions):
    """sigma: standard deviation of the Gaussian, as a share of each side."""

    sigma: float = bounded(0.25, gt=0)


class Center(NullModel):
    """Null model: a centred Gaussian, the same for every patch (the centre bias of Judd et al. 2009)."""

    name = "center"
    label = "Centred Gaussian"
    citations = ("judd2009",)
    Options = Options

    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """exp(-d^2 / (2 sigma^2)), where d is the distance from the centre in sides."""
        y, x = (((np.arange(n) + 0.5) / n - 0.5) for n in image.shape[:2])
        return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * self.options.sigma**2))
