"""RISE: random masks.

Petsiuk, Das and Saenko 2018, arXiv 1806.07421: a pixel's importance is the mean probability of the target over random
soft masks that leave it visible, divided by how often they do. Masks are coarse grids of on and off, enlarged
bilinearly and shifted at random, as in the paper. No library that histoxai uses has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histoxai.explain.bases.method import MethodOptions
from histoxai.explain.bases.packing import PatchInputs
from histoxai.explain.bases.sampling import SAME_OUTPUT, Sampling
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Options(MethodOptions):
    """masks: number of masks. grid: cells a side. share: of cells that are on."""

    masks: int = bounded(1000, ge=1)
    grid: int = bounded(7, ge=2)
    share: float = bounded(0.5, gt=0, lt=1)


class RandomMasks:
    """Masks of one patch: cells (masks, grid, grid) float32 0 or 1 on its device, and shifts (masks, 2) px."""

    def __init__(self, random: np.random.Generator, options: Options, image: torch.Tensor) -> None:
        from histoxai.networks.inference import to_device

        o, size = options, image.shape[1:]
        cells = (random.random((o.masks, o.grid, o.grid)) < o.share).astype(np.float32)
        self.cells = to_device(cells, image.device)
        self._cell_size = [-(-n // o.grid) for n in size]
        self.shifts = np.stack([random.integers(0, c, o.masks) for c in self._cell_size], axis=1)
        self._size, self._grid = size, o.grid

    def mask(self, i: int) -> torch.Tensor:
        """Soft mask i (1, H, W) float32 in 0..1."""
        from torch.nn import functional

        enlarged = [(self._grid + 1) * c for c in self._cell_size]
        cells = self.cells[i][None, None]
        large = functional.interpolate(cells, size=enlarged, mode="bilinear", align_corners=False)[0]
        (y, x), (height, width) = self.shifts[i], self._size
        return large[:, y : y + height, x : x + width]


class RISE(Sampling):
    """Randomised input sampling of the target's probability: 1,000 masks of 7 x 7 cells, half of them on."""

    name = "rise"
    label = "RISE"
    family = "perturbation"
    citations = ("petsiuk2018",)
    Options = Options
    channels = 1
    passes = "{masks} forward"

    def prepare(self) -> None:
        self.rows = self.options.masks
        self._masks = RandomMasks(self.random, self.options, self.image)

    def perturb(self, i: int) -> torch.Tensor:
        return self.image * self._masks.mask(i)

    def summary(self) -> torch.Tensor:
        """Mean of the masks, weighted by probability, divided by the share of cells that are on.

        Where all probabilities are the same, as those of a black patch, it is that one: the mean would show the masks.
        """
        import torch

        total, outputs = torch.zeros(self.image.shape[1:], device=self.image.device), super().summary()
        for i, probability in enumerate(outputs):  # a thousand masks would take 260 MB: they are made again
            total.addcmul_(self._masks.mask(i)[0], probability.float())
        low, high = outputs.float().aminmax()
        differs = high - low > SAME_OUTPUT * high
        return torch.where(differs, total / (self.rows * self.options.share), high)[None]

    reduce = PatchInputs.reduce  # the summary is the map
