"""LIME for images.

Ribeiro, Singh and Guestrin 2016, arXiv 1602.04938: superpixels are switched off at random (filled with
their mean colour) and a weighted ridge regression of the target's probability on them gives the weights.

Segments, perturbations, distances and regression are lime's; replaced is how it gets there, 18 to 26 s a patch of
which the network needs 4: perturbed images one superpixel at a time in Python (0.8 to 1.35 s), batches of ten
that are not packed, two regressions through scikit-learn (0.05 s), and segmentation while the network waits (0.4 s).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.explain.bases.method import Batch, Method, Map, RawSpec, one_sign
from histoxai.explain.bases.packing import PatchInputs, run_packed
from histoxai.explain.bases.superpixels import ahead, mean_colours, quickshift, threads_beside, with_nuclei
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

KERNEL_WIDTH = 0.25


@dataclass(frozen=True)
class Options:
    """samples: perturbed images. top: superpixels shown. kernel_size, max_dist, ratio: of quickshift.

    segments: quickshift, or nuclei (of --masks, with quickshift between them). stability: explain each patch with a
    second seed too, and store the rank correlation of the weights; twice the cost.
    """

    samples: int = bounded(500, ge=2)
    top: int = bounded(3, ge=1)
    kernel_size: float = bounded(4.0, ge=1)
    max_dist: float = bounded(200.0, gt=0)
    ratio: float = bounded(0.2, ge=0, le=1)
    segments: str = bounded("quickshift", choices=("quickshift", "nuclei"))
    stability: bool = False

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class _Parts:
    """A patch cut up: segments (H, W), its mean colours (H, W, 3) float32, rows of switches (n, K) of each seed."""

    segments: np.ndarray
    mean: np.ndarray
    on: list[np.ndarray]


def switches(seed: int, samples: int, count: int) -> np.ndarray:
    """Which superpixels are left on (samples, K), as lime draws them from a seed; all in the first row."""
    random = np.random.RandomState(seed)
    random.randint(0, 1000)  # the seed that lime hands to the segmentation, which ignores it
    on = random.randint(0, 2, samples * count).reshape(samples, count)
    on[0] = 1
    return on.astype(bool)


def ridge(on: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (K,) and weighted R2 of lime's local model of y (n,) float64, in closed form.

    min sum w (y - b0 - X b)^2 + |b|^2 with w = sqrt(exp(-d^2 / 0.25^2)), d the cosine distance to the first row.
    """
    x = on.astype(np.float64)
    share = np.sqrt(np.maximum(x.sum(axis=1), 0.0) / x.shape[1])  # the cosine of 0/1 rows to all ones
    weight = np.sqrt(np.exp(-((1 - share) ** 2) / KERNEL_WIDTH**2))
    weight_sum = weight.sum()
    x_mean, y_mean = weight @ x / weight_sum, weight @ y / weight_sum
    xc, yc = x - x_mean, y - y_mean
    weighted = xc * weight[:, None]
    beta = np.linalg.solve(xc.T @ weighted + np.eye(x.shape[1]), weighted.T @ yc)
    left, spread = float(weight @ (yc - xc @ beta) ** 2), float(weight @ yc**2)
    return beta, (1 - left / spread) if spread > 0 else float("nan")


class _Perturbed(PatchInputs):
    """The perturbed images of a patch, put together on the device: a gather of switches by segment."""

    def __init__(self, image: torch.Tensor, target: int, parts: _Parts, most: int) -> None:
        import torch

        super().__init__(sum(len(on) for on in parts.on), target)
        self._parts, self._most = parts, most
        device = image.device
        # flat, channels last: a switch for each number, so that one pass over memory chooses
        self._image = image.permute(1, 2, 0).reshape(-1)
        self._mean = torch.from_numpy(parts.mean).to(device).ravel()
        self._segments = torch.from_numpy(np.repeat(parts.segments.ravel(), 3).astype(np.int64)).to(device)[None]
        self._on = torch.from_numpy(np.concatenate(parts.on)).to(device)
        self._y = torch.empty(self.rows, device=device)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        import torch

        on = self._on[start:stop].gather(1, self._segments.expand(stop - start, -1))
        torch.where(on, self._image, self._mean, out=out.permute(0, 2, 3, 1).view(stop - start, -1))

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        self._y[start:stop] = found

    def result(self) -> Map:
        y = self._y.double().cpu().numpy()
        weights, r2 = ridge(self._parts.on[0], y[: len(self._parts.on[0])])
        checks = {"r2": r2}
        if len(self._parts.on) > 1:
            again = ridge(self._parts.on[1], y[len(self._parts.on[0]) :])[0]
            checks["stability"] = _rank_correlation(weights, again)
        stored = np.full(self._most, np.nan, np.float32)
        stored[: len(weights)] = weights
        return Map({"segments": self._parts.segments.astype(np.uint16), "weights": stored}, checks)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)


class Lime(Method):
    """lime's image explainer of the target's probability: 500 samples, quickshift, the 3 strongest superpixels.

    Source: arXiv 1602.04938.
    """

    Options = Options
    checks = ("r2", "stability")

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """segments (H, W) uint16, superpixel numbers from 0; weights (K,) float32, NaN behind the last one."""
        del net
        most = min(65535, size[0] * size[1] // 16)
        return {"segments": RawSpec(size, np.uint16), "weights": RawSpec((most,), np.float32, float("nan"))}

    def explain(self, net: Network, batch: Batch) -> Iterator[tuple[int, Map]]:
        """Samples of several patches share micro-batches; threads segment the next patches."""
        images = net.ready(batch.images)
        most = self.raw_specs(net, (images.shape[2], images.shape[3]))["weights"].shape[0]
        cut = ahead(lambda i: self._cut(batch, i, most), len(batch), threads_beside(net))
        work = ((i, _Perturbed(images[i], int(batch.targets[i]), parts, most)) for i, parts in enumerate(cut))
        yield from run_packed(net, net.probability, work, images.shape[1:])

    def _cut(self, batch: Batch, i: int, most: int) -> _Parts:
        image, _, seed = batch.patch(i)
        pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float64)
        segments = self.segments(pixels, None if batch.nuclei is None else batch.nuclei[i])
        count = int(segments.max()) + 1
        if count > most:
            o = self.options
            larger = f"kernel_size={2 * o.kernel_size:g}" if o.segments == "quickshift" else "segments=quickshift"
            raise InputRefused(
                f"lime: {batch.name(i)} has {count} superpixels, at most {most}; ask for larger ones with "
                f"-O lime.{larger}"
            )
        mean = mean_colours(pixels, segments).astype(np.float32)
        seeds = [seed, (seed + 1) % 2**32] if self.options.stability else [seed]
        return _Parts(segments, mean, [switches(s, self.options.samples, count) for s in seeds])

    def segments(self, pixels: np.ndarray, nuclei: np.ndarray | None) -> np.ndarray:
        """Superpixels (H, W) of an image (H, W, 3) float64."""
        o = self.options
        found = quickshift(pixels, o.kernel_size, o.max_dist, o.ratio)
        if o.segments == "quickshift":
            return found
        if nuclei is None:
            raise InputRefused("lime: segments=nuclei takes them from a masks store; name it with --masks")
        return with_nuclei(found, nuclei)

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray] | None:
        """lime's own, patch by patch, ten perturbed images at a time."""
        import torch
        from lime.lime_image import LimeImageExplainer

        if self.options.segments != "quickshift":
            return None

        @torch.no_grad()
        def classify(images: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).to(image)
            return torch.softmax(module(x), dim=1).double().cpu().numpy()

        explanation: Any = LimeImageExplainer(random_state=seed).explain_instance(
            image.permute(1, 2, 0).cpu().numpy().astype(np.float64),
            classify,
            labels=(target,),
            top_labels=None,
            num_samples=self.options.samples,
            segmentation_fn=lambda pixels: self.segments(pixels, None),
        )
        pairs = dict(explanation.local_exp[target])
        return {"segments": explanation.segments, "weights": np.array([pairs[k] for k in range(len(pairs))])}

    @classmethod
    def passes(cls, options: Any) -> str:
        """One forward pass a sample."""
        return f"{options.samples * (2 if options.stability else 1)} forward"

    def evidence(self, raw: dict[str, np.ndarray]) -> np.ndarray:
        """The superpixels' weights."""
        return raw["weights"][np.isfinite(raw["weights"])]

    def signed(self, raw: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """Each superpixel's weight, shared out among its pixels."""
        del size
        pixels = np.bincount(raw["segments"].ravel())
        return (raw["weights"][: len(pixels)] / np.maximum(pixels, 1)).astype(np.float32)[raw["segments"]][None]

    def relevance(self, raw: dict[str, np.ndarray], size: tuple[int, int], sign: str) -> np.ndarray:
        """Each superpixel's weight of one sign, on all of its pixels."""
        return one_sign(raw["weights"], self.own_sign if sign == "own" else sign)[raw["segments"]]

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """1 on the `top` strongest superpixels of either sign, 0 elsewhere."""
        del constant  # nothing is scaled
        weights = self.evidence(raw)
        strongest = np.argsort(-np.abs(weights), kind="stable")[: self.options.top]
        return np.isin(raw["segments"], strongest).astype(np.float64)
