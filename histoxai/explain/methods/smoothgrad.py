"""SmoothGrad: the mean gradient over noisy copies of the input.

Smilkov et al. 2017, arXiv 1706.03825: noise of 10 to 20 % of the image's range, 50 copies. With
`-O smoothgrad.kind=smoothgrad_sq` or `vargrad` the mean of squares, or the variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from histoxai.explain.bases.method import MethodOptions
from histoxai.explain.bases.noise import NOISE_KINDS, NoisyCopies
from histoxai.settings import bounded

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of SmoothGrad.

    samples: noisy copies. level: the noise as a share of the patch's range of values. stdev: its standard deviation,
    used if level is 0. kind: captum's nt_type.
    """

    samples: int = bounded(50, ge=1)
    stdev: float = bounded(0.15, ge=0)
    level: float = bounded(0.15, ge=0)
    kind: str = bounded("smoothgrad", choices=NOISE_KINDS)


class SmoothGrad(NoisyCopies):
    """captum's NoiseTunnel over the gradient: 50 samples, noise of 15 % of the patch's range of values."""

    name = "smoothgrad"
    label = "SmoothGrad"
    family = "gradient"
    citations = ("smilkov2017",)
    Options = Options
    is_gradient = True

    def captum_method(self, module: nn.Module) -> tuple[Any, dict[str, Any]]:
        from captum.attr import Saliency

        return Saliency(module), {"abs": False}
