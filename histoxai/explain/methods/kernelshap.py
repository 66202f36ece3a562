"""KernelSHAP over superpixels.

Lundberg and Lee 2017, arXiv 1705.07874: Shapley values of superpixels, from a linear model of the logit of patches in
which some superpixels are black; these samples are drawn and weighted by the Shapley kernel. captum computes it; it
gets the superpixels, and as many perturbed patches a pass as a micro-batch holds. Its draws depend on the patch's seed
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.method import Batch, Map, MethodOptions, PixelMethod
from histoxai.explain.bases.sampling import SAME_OUTPUT
from histoxai.explain.bases.superpixels import compute_ahead, quickshift, segmenting
from histoxai.settings import bounded

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of KernelSHAP.

    samples: perturbed patches. baseline: value in 0..1 of superpixels that are off. kernel_size, max_dist, ratio:
    options of quickshift.
    """

    samples: int = bounded(500, ge=2)
    baseline: float = bounded(0.0, ge=0, le=1)
    kernel_size: float = bounded(4.0, ge=1)
    max_dist: float = bounded(200.0, gt=0)
    ratio: float = bounded(0.2, ge=0, le=1)


class KernelSHAP(PixelMethod):
    """captum's KernelShap of the target's logit: 500 samples over quickshift's superpixels, black where off."""

    name = "kernelshap"
    label = "KernelSHAP"
    family = "perturbation"
    citations = ("lundberg2017",)
    Options = Options
    library_package = "captum"
    channels = 1

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Explain patch by patch; the next patches are segmented meanwhile."""
        images = net.ready(batch.images)
        pixels = ((image.permute(1, 2, 0).numpy(),) for image in batch.images)
        cut = compute_ahead(self.segment, pixels, *segmenting(net))
        for i, segments in enumerate(cut):
            _, target, seed = batch.patch(i)
            values = partial(self._values, net.module, images[i], segments, target, seed)
            yield i, Map({"": net.in_parts(values)})

    def segment(self, pixels: np.ndarray) -> np.ndarray:
        """Superpixels (H, W), numbered from 0, of a patch (H, W, 3) float32."""
        o = self.options
        return quickshift(pixels.astype(np.float64), o.kernel_size, o.max_dist, o.ratio)

    def _values(
        self, module: nn.Module, image: torch.Tensor, segments: np.ndarray, target: int, seed: int, rows: int
    ) -> np.ndarray:
        # Shapley values (1, H, W); rows: perturbed patches in one pass
        import torch
        from captum.attr import KernelShap

        if segments.max() < 1:  # a blank patch is one superpixel, which captum refuses: it has the whole difference
            off = torch.full_like(image, self.options.baseline)
            on, without = module(torch.stack([image, off]))[:, target].detach()
            difference = (on - without).float().expand(1, *image.shape[1:])
            return difference.cpu().numpy()  # waits: once a blank patch
        mask = torch.from_numpy(segments.astype(np.int64)).to(image.device)[None, None]
        logits: list[torch.Tensor] = []

        def logit(x: torch.Tensor) -> torch.Tensor:
            logits.append(module(x)[:, target].detach())
            return logits[-1]

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            values = KernelShap(logit).attribute(
                image[None],
                baselines=self.options.baseline,
                feature_mask=mask,
                n_samples=self.options.samples,
                perturbations_per_eval=rows,
            )
        low, high = torch.cat(logits).aminmax()
        differs = high - low > SAME_OUTPUT * torch.maximum(low.abs(), high.abs())  # else by rounding alone
        return (values[0, :1] * differs).float().cpu().numpy()  # waits: captum returns one patch at a time

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's KernelShap, one perturbed patch a pass."""
        pixels = image.float().permute(1, 2, 0).cpu().numpy()
        return {"": self._values(module, image, self.segment(pixels), target, seed, 1)}

    @classmethod
    def cost(cls, options: Any) -> str:
        return f"{options.samples} forward"
