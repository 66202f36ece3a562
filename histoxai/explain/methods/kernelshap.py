"""KernelSHAP over superpixels.

Lundberg and Lee 2017, arXiv 1705.07874: Shapley values of superpixels from a linear model of the logit of patches in
which some are black, sampled and weighted by the Shapley kernel. captum's own, which is given the superpixels and
as many perturbed patches a pass as a micro-batch holds; what it draws depends on the patch's seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.explain.bases.method import PixelMethod, Batch, Map
from histoxai.explain.bases.superpixels import ahead, quickshift, threads_beside
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network


@dataclass(frozen=True)
class Options:
    """samples: perturbed patches. baseline: of what is switched off. kernel_size, max_dist, ratio: of quickshift."""

    samples: int = bounded(500, ge=2)
    baseline: float = bounded(0.0, ge=0, le=1)
    kernel_size: float = bounded(4.0, ge=1)
    max_dist: float = bounded(200.0, gt=0)
    ratio: float = bounded(0.2, ge=0, le=1)

    def __post_init__(self) -> None:
        check_bounds(self)


class KernelSHAP(PixelMethod):
    """captum's KernelShap of the target's logit: 500 samples over quickshift's superpixels, black where off.

    Source: arXiv 1705.07874.
    """

    Options = Options
    channels = 1

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Patch by patch; threads segment the next ones."""
        images = net.ready(batch.images)
        cut = ahead(lambda k: self._segments(batch.images[k]), len(batch), threads_beside(net))
        for i, segments in enumerate(cut):
            _, target, seed = batch.patch(i)
            made = net.in_parts(
                lambda size, i=i, s=segments, t=target, r=seed: self._values(net.module, images[i], s, t, r, size)  # type: ignore[misc]
            )
            yield i, Map({"": made})

    def _segments(self, image: torch.Tensor) -> np.ndarray:
        o = self.options
        return quickshift(image.permute(1, 2, 0).cpu().numpy().astype(np.float64), o.kernel_size, o.max_dist, o.ratio)

    def _values(
        self, module: nn.Module, image: torch.Tensor, segments: np.ndarray, target: int, seed: int, size: int
    ) -> np.ndarray:
        import torch
        from captum.attr import KernelShap as Library

        if segments.max() < 1:  # a blank patch is one superpixel, which captum refuses; all of the difference is its
            off = torch.full_like(image, self.options.baseline)
            on, without = module(torch.stack([image, off]))[:, target].detach()
            return (on - without).float().expand(1, *image.shape[1:]).cpu().numpy()
        mask = torch.from_numpy(segments.astype(np.int64)).to(image.device)[None, None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = Library(module).attribute(
                image[None],
                baselines=self.options.baseline,
                target=target,
                feature_mask=mask,
                n_samples=self.options.samples,
                perturbations_per_eval=size,
            )
        return made[0, :1].float().cpu().numpy()

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """captum's, one perturbed patch at a time."""
        return {"": self._values(module, image, self._segments(image.float()), target, seed, 1)}

    @classmethod
    def passes(cls, options: Any) -> str:
        """One a sample."""
        return f"{options.samples} forward"
