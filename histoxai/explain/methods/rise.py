"""RISE: random masks.

Petsiuk, Das and Saenko 2018, arXiv 1806.07421: a pixel's importance is the mean probability of the target over random
soft masks that leave it visible, divided by how often they do. Masks are coarse grids of on and off, enlarged
bilinearly and shifted at random, as in the paper; no library of ours has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.method import PixelMethod, Batch, Map
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options:
    """masks: how many. grid: cells a side. share: of cells that are on."""

    masks: int = bounded(1000, ge=1)
    grid: int = bounded(7, ge=2)
    share: float = bounded(0.5, gt=0, lt=1)

    def __post_init__(self) -> None:
        check_bounds(self)


class Grids:
    """The masks of a patch: cells (n, grid, grid) 0 or 1 and shifts (n, 2) px, drawn from its seed."""

    def __init__(self, seed: int, options: Options, size: tuple[int, int]) -> None:
        random = np.random.default_rng(seed)
        o = options
        self.cells = (random.random((o.masks, o.grid, o.grid)) < o.share).astype(np.float32)
        self.cell = [-(-n // o.grid) for n in size]
        self.shifts = np.stack([random.integers(0, c, o.masks) for c in self.cell], axis=1)
        self._size, self._grid = size, o.grid

    def make(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Soft masks [start, stop) (stop - start, 1, H, W) in 0..1."""
        import torch
        from torch.nn import functional

        whole = [(self._grid + 1) * c for c in self.cell]
        cells = torch.from_numpy(self.cells[start:stop])[:, None].to(device)
        large = functional.interpolate(cells, size=whole, mode="bilinear", align_corners=False)
        height, width = self._size
        cut = [m[:, y : y + height, x : x + width] for m, (y, x) in zip(large, self.shifts[start:stop], strict=True)]
        return torch.stack(cut)


class _Masked(PatchInputs):
    def __init__(self, image: torch.Tensor, target: int, seed: int, options: Options) -> None:
        import torch

        super().__init__(options.masks, target)
        self._image, self._share = image, options.share
        self._grids = Grids(seed, options, (image.shape[1], image.shape[2]))
        self._sum = torch.zeros(image.shape[1:], device=image.device)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        import torch

        torch.mul(self._image, self._grids.make(start, stop, self._image.device), out=out)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        # made again: a thousand masks of a patch would be 260 MB
        for mask, probability in zip(self._grids.make(start, stop, self._image.device), found, strict=True):
            self._sum.addcmul_(mask[0], probability.float())

    def result(self) -> Map:
        return Map({"": (self._sum / (self.rows * self._share))[None].cpu().numpy()})


class RISE(PixelMethod):
    """Randomised input sampling of the target's probability: 1,000 masks of 7 x 7 cells, half of them on.

    Source: arXiv 1806.07421.
    """

    Options = Options
    channels = 1

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Masked copies of several patches share micro-batches."""
        images = net.ready(batch.images)
        work = (
            (i, _Masked(images[i], int(batch.targets[i]), int(batch.seeds[i]), self.options)) for i in range(len(batch))
        )
        yield from run_packed(net, net.probability, work, images.shape[1:])

    @classmethod
    def passes(cls, options: Any) -> str:
        """One a mask."""
        return f"{options.masks} forward"
