"""ScoreCAM.

Wang et al. 2020, arXiv 1910.01279: activations weighted by the softmax, over channels, of the target's logit when the
patch is seen through each of them.

The library's loop is replaced: it runs batches of 16 that are not filled. Channels of several patches fill
micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import numpy as np

from histoxai.explain.bases.cam import CAM, SinglePassCAM
from histoxai.explain.bases.method import Batch
from histoxai.explain.bases.packing import PatchInputs
from histoxai.explain.bases.sampling import Sampling
from histoxai.explain.bases.single_pass import run_single_pass

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network


class ScoreCAM(CAM, Sampling):
    """pytorch-grad-cam's ScoreCAM of the target's logit at the last convolution."""

    name = "scorecam"
    label = "ScoreCAM"
    citations = ("wang2020",)
    library_class = "ScoreCAM"
    output = "logit"
    passes = "1 forward a channel, and 1"
    activation: torch.Tensor

    def patches(self, net: Network, images: torch.Tensor, batch: Batch) -> Iterator[tuple[int, Self]]:
        """One copy of the method a patch, with the layer's `activation` (C, h, w)."""
        from histoxai.networks.inference import to_device

        for part in run_single_pass(net, {"": _Activations(self.options)}, images, batch.targets):
            for i, values in enumerate(part.raw[""], part.start):
                yield i, self.for_patch(images[i], batch, i, activation=to_device(values, net.device))

    def prepare(self) -> None:
        self.rows = len(self.activation)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write the patch seen through channels [start, stop), which are enlarged and scaled to 0..1.

        They are enlarged together, because torch gives eight channels or more other last bits.
        """
        from torch.nn import functional

        channels, size = self.activation[None, start:stop], self.image.shape[1:]
        masks = functional.interpolate(channels, size=size, mode="bilinear", align_corners=True)[0]
        least, most = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
        out.copy_(self.image * ((masks - least) / (most - least + 1e-8))[:, None])

    def summary(self) -> torch.Tensor:
        """Sum of the channels, weighted by the softmax of the logits."""
        weights = super().summary().softmax(dim=0)
        return (weights[:, None, None] * self.activation).sum(dim=0)[None]

    reduce = PatchInputs.reduce  # the summary is the map


class _Activations(SinglePassCAM):
    """The layer's output itself."""

    name = "scorecam"
    needs_gradient = False

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        return value.cpu().numpy()  # waits: activations of a whole micro-batch
