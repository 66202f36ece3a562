"""Base of null models: maps that do not look at the network.

A method has to beat them before its scores mean anything.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.method import Batch, Map, PixelMethod

if TYPE_CHECKING:
    from histoxai.explain.network import Network


class NullModel(PixelMethod):
    """A map from the image alone, or from nothing."""

    family = "null model"
    channels = 1

    @abstractmethod
    def plane(self, image: np.ndarray, seed: int) -> np.ndarray:
        """The map (H, W), not negative, of an image (H, W, 3) float32 in 0..1; `seed` is the patch's own."""

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Explain patch by patch, without a pass through the network."""
        del net
        for i in range(len(batch)):
            image, _, seed = batch.patch(i)
            plane = self.plane(image.permute(1, 2, 0).numpy(), seed)
            yield i, Map({"": plane[None].astype(np.float32)})

    @classmethod
    def cost(cls, options: Any) -> str:
        return "none"
