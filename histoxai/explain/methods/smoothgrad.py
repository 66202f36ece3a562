"""SmoothGrad: the mean gradient over noisy copies of the input.

Smilkov et al. 2017, arXiv 1706.03825: noise of 10 to 20 % of the image's range, 50 copies. With
`-O smoothgrad.kind=smoothgrad_sq` or `vargrad` the mean of squares, or the variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from histoxai.explain.methods.nt import KINDS, NoiseTunnel
from histoxai.settings import bounded, check_bounds


@dataclass(frozen=True)
class Options:
    """samples: noisy copies. level: the noise as a share of the patch's range; stdev: in its place where level is 0."""

    samples: int = bounded(50, ge=1)
    stdev: float = bounded(0.15, ge=0)
    level: float = bounded(0.15, ge=0)
    kind: str = bounded("smoothgrad", choices=KINDS)

    def __post_init__(self) -> None:
        check_bounds(self)


class SmoothGrad(NoiseTunnel):
    """captum's NoiseTunnel over the gradient: 50 samples, noise of 15 % of the patch's range of values.

    Source: arXiv 1706.03825.
    """

    local = True

    Options: ClassVar[type] = Options
