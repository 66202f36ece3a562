"""The straight path from a baseline to the patch: points, weights, and the completeness of attributions.

Attributions are complete if they add up to F(x) - F(b), the difference of the target's logit between patch and baseline
(Sundararajan, Taly and Yan 2017, arXiv 1703.01365).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from histoxai.explain.bases.method import Batch, Map
from histoxai.explain.bases.sampling import GradientSampling

if TYPE_CHECKING:
    import torch

    from histoxai.explain.network import Network


class CompleteGradients(GradientSampling):
    """A method whose attributions should add up to `difference`, F(x) - F(b) of each patch; has `options.baseline`."""

    checks: ClassVar[tuple[str, ...]] = ("completeness_error",)
    difference: float

    def patches(self, net: Network, images: torch.Tensor, batch: Batch) -> Iterator[tuple[int, Self]]:
        """One copy of the method a patch, with `difference`."""
        differences = logit_differences(net, images, batch.targets, self.options.baseline)
        for i, one in super().patches(net, images, batch):
            one.difference = float(differences[i])
            yield i, one

    def explain_with_library(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Add the completeness error to the library's maps."""
        differences = logit_differences(net, net.ready(batch.images), batch.targets, self.options.baseline)
        yield from with_completeness(super().explain_with_library(net, batch), differences)


def with_completeness(maps: Iterable[tuple[int, Map]], differences: np.ndarray) -> Iterator[tuple[int, Map]]:
    """Add the completeness error to the checks of maps; differences: F(x) - F(b) (n,) of each patch."""
    for i, result in maps:
        error = completeness_error(result.raw[""], float(differences[i]))
        yield i, Map(result.raw, {**result.checks, "completeness_error": error})


def gauss_legendre(steps: int) -> tuple[torch.Tensor, list[float]]:
    """Points (steps, 1, 1, 1) float32 in 0..1 and their weights, which add up to 1."""
    import torch

    points, weights = np.polynomial.legendre.leggauss(steps)
    return torch.from_numpy((0.5 * (points + 1)).astype(np.float32)).view(-1, 1, 1, 1), (0.5 * weights).tolist()


def completeness_error(attribution: np.ndarray, difference: float) -> float:
    """|sum of attributions - difference| / |difference|, where difference is F(x) - F(b); NaN if that is 0."""
    return abs(float(attribution.sum(dtype=np.float64)) - difference) / abs(difference) if difference else float("nan")


def logit_differences(net: Network, images: torch.Tensor, targets: torch.Tensor, baseline: float) -> np.ndarray:
    """F(x) - F(b) (n,) float64 of each patch's target logit; b has the value `baseline` everywhere."""
    import torch

    from histoxai.explain.network import of_targets

    # the baseline is one more patch; the last micro-batch is padded as everywhere
    rows = torch.cat([images, torch.full_like(images[:1], baseline)])
    short = -len(rows) % net.full_micro_batch
    rows = torch.cat([rows, rows[-1:].expand(short, -1, -1, -1)]) if short else rows
    no_targets = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    logits = torch.cat(
        [
            part
            for a in range(0, len(rows), net.full_micro_batch)
            for part in net.run(lambda x, _: net.logits(x), net.ready(rows[a : a + net.full_micro_batch]), no_targets)
        ]
    ).double()
    classes = targets.to(logits.device)
    differences = of_targets(logits[: len(images)], classes) - logits[len(images)][classes]
    return differences.cpu().numpy()  # waits: once a work item, before its first pass
