"""ScoreCAM.

Wang et al. 2020, arXiv 1910.01279: activations weighted by the softmax, over channels, of the target's logit when the
patch is seen through each of them.

Replaced here: the library's loop, batches of 16 that leave a rest; channels of several patches fill whole
micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.method import Batch, Map
from histoxai.explain.bases.cam import CAM, SinglePassCAM
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.explain.bases.single_pass import run_single_pass

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network


class _Channels(PatchInputs):
    """The patch through each channel of its activation (C, h, w), enlarged and scaled to 0..1."""

    def __init__(self, image: torch.Tensor, target: int, activation: torch.Tensor) -> None:
        import torch

        super().__init__(len(activation), target)
        self._image, self._activation = image, activation
        self._logits = torch.empty(self.rows, device=image.device)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        import torch
        from torch.nn import functional

        large = functional.interpolate(
            self._activation[None, start:stop], size=self._image.shape[1:], mode="bilinear", align_corners=True
        )[0]
        least, most = (f(large, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
        torch.mul(self._image, ((large - least) / (most - least + 1e-8))[:, None], out=out)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        self._logits[start:stop] = found

    def result(self) -> Map:
        import torch

        weights = torch.softmax(self._logits, dim=0)
        return Map({"": (weights[:, None, None] * self._activation).sum(dim=0)[None].cpu().numpy()})


class ScoreCAM(CAM):
    """pytorch-grad-cam's ScoreCAM of the target's logit at the last convolution.

    Source: arXiv 1910.01279.
    """

    name = "scorecam"

    @staticmethod
    def library_class() -> Any:
        """pytorch_grad_cam.ScoreCAM."""
        from pytorch_grad_cam import ScoreCAM as Library

        return Library

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Activations of all patches first, then their channels packed."""
        images = net.ready(batch.images)
        yield from run_packed(net, net.logit, self._work(net, images, batch), images.shape[1:])

    def _work(self, net: Network, images: torch.Tensor, batch: Batch) -> Iterator[tuple[int, PatchInputs]]:
        import torch

        for part in run_single_pass(net, {"": _Activations(self)}, images, batch.targets):
            for i, activation in enumerate(part.raw[""], part.start):
                yield i, _Channels(images[i], int(batch.targets[i]), torch.from_numpy(activation).to(net.device))

    @classmethod
    def passes(cls, options: object) -> str:
        """One a channel."""
        return "1 forward a channel, and 1"


class _Activations(SinglePassCAM):
    """The layer's output itself."""

    name, gradient = "scorecam", False

    def __init__(self, of: CAM) -> None:
        super().__init__(of.options)

    def read(self, value: torch.Tensor, gradient: torch.Tensor | None) -> np.ndarray:
        """As it is."""
        return value.cpu().numpy()
