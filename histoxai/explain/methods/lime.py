"""LIME for images.

Ribeiro, Singh and Guestrin 2016, arXiv 1602.04938: superpixels are switched off at random (filled with their mean
colour). A weighted ridge regression of the target's probability on the switches gives the superpixels' weights.

Segments, switches, distances and regression are lime's. Its implementation is replaced: it takes 18 to 26 s a patch, of
which the network needs 4. It perturbs images one superpixel at a time in Python (0.8 to 1.35 s), runs batches of ten
that are not packed, fits two regressions with scikit-learn (0.05 s), and segments while the network waits (0.4 s).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.explain.bases.method import Batch, Map, MethodOptions, RawSpec, level, one_sign
from histoxai.explain.bases.sampling import Sampling, is_same_output
from histoxai.explain.bases.superpixels import (
    compute_ahead,
    mean_colours,
    quickshift,
    segmenting,
    with_nuclei,
)
from histoxai.settings import bounded
from histoxai.statistics.ranks import spearman

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histoxai.explain.network import Network

# Widths of the kernels where none is given: the library's for images, and its authors' for Euclidean distances, as a
# multiple of the root of the number of superpixels.
COSINE_WIDTH, L2_WIDTH = 0.25, 0.75
LEAST_WIDTH = 0.01


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of LIME.

    samples: perturbed images. top: superpixels shown. kernel_size, max_dist, ratio: options of quickshift. segments:
    quickshift, or nuclei (from --masks, with quickshift between them). stability: explain each patch with a second seed
    too and store the rank correlation of the weights; twice the cost. kernel: how samples are weighted, see
    `sample_weights`. width: of the kernel; 0 for 0.25 (cosine) or 0.75 times the root of the number of superpixels
    (l2). positive: show the superpixels with the highest positive weights, not the strongest of either sign.
    """

    samples: int = bounded(500, ge=2)
    top: int = bounded(3, ge=1)
    kernel_size: float = bounded(4.0, ge=1)
    max_dist: float = bounded(200.0, gt=0)
    ratio: float = bounded(0.2, ge=0, le=1)
    segments: str = bounded("quickshift", choices=("quickshift", "nuclei"))
    stability: bool = False
    kernel: str = bounded("cosine", choices=("cosine", "l2"), omit_default=True)
    width: float = bounded(0.0, ge=0, omit_default=True)
    positive: bool = bounded(False, omit_default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.width < LEAST_WIDTH:
            raise UsageError(f"--width: {self.width} must be at least {LEAST_WIDTH}, or 0 for the kernel's own")


def draw_switches(seed: int, samples: int, count: int) -> np.ndarray:
    """Which of `count` superpixels are on, (samples, count) bool, as lime draws them; in the first row all are."""
    random = np.random.RandomState(seed)
    random.randint(0, 1000)  # the seed that lime hands to the segmentation, which ignores it
    on = random.randint(0, 2, samples * count).reshape(samples, count)
    on[0] = 1
    return on.astype(bool)


def sample_weights(on: np.ndarray, kernel: str, width: float) -> np.ndarray:
    """Weights (n,) float64 of samples with switches (n, K) in the local model, by their distance d to the first row.

    cosine: sqrt(exp(-d^2 / width^2)) of the cosine distance, as in lime. l2: exp(-d^2 / width^2) of the Euclidean
    distance, the study's equation 6. width 0: the kernel's own.
    """
    x = on.astype(np.float64)
    superpixels = x.shape[1]
    if kernel == "l2":
        return np.exp(-(superpixels - x.sum(axis=1)) / (width**2 or L2_WIDTH**2 * superpixels))
    share = np.sqrt(np.maximum(x.sum(axis=1), 0.0) / superpixels)  # the cosine of 0/1 rows to all ones
    return np.sqrt(np.exp(-((1 - share) ** 2) / (width or COSINE_WIDTH) ** 2))


def ridge(on: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (K,) and weighted R2 of lime's local model of y (n,) float64 on switches (n, K), in closed form.

    min sum w (y - b0 - X b)^2 + |b|^2; weight: w (n,) of the samples.
    """
    x = on.astype(np.float64)
    weight_sum = weight.sum()
    x_mean, y_mean = weight @ x / weight_sum, weight @ y / weight_sum
    xc, yc = x - x_mean, y - y_mean
    weighted = xc * weight[:, None]
    beta = np.linalg.solve(xc.T @ weighted + np.eye(x.shape[1]), weighted.T @ yc)
    residual, spread = float(weight @ (yc - xc @ beta) ** 2), float(weight @ yc**2)
    return beta, (1 - residual / spread) if spread > 0 else float("nan")


def strongest(strength: np.ndarray, top: int) -> np.ndarray:
    """Share (K,) in 0..1 of each superpixel in the `top` strongest; ties share the places that are left for them.

    A superpixel without strength has none.
    """
    ordered = np.sort(strength)
    above = len(strength) - np.searchsorted(ordered, strength, side="right")
    tied = len(strength) - above - np.searchsorted(ordered, strength)
    return np.where(strength > 0, np.clip((top - above) / tied, 0.0, 1.0), 0.0)


def _most(size: tuple[int, ...]) -> int:
    # the largest number of superpixels of a patch of this size (H, W)
    return min(65535, size[0] * size[1] // 16)


def _stored(segments: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    # raw arrays as stores have them
    padded = np.full(_most(segments.shape), np.nan, np.float32)
    padded[: len(weights)] = weights
    return {"segments": segments.astype(np.uint16), "weights": padded}


def _weights(raw: dict[str, np.ndarray]) -> np.ndarray:
    # weights (K,) of the superpixels, without what pads them
    return level(raw["weights"][: int(raw["segments"].max()) + 1], (-1,))


@dataclass(frozen=True)
class _Segmented:
    """A segmented patch: segments (H, W), mean colours (H, W, 3) float32, switches (samples, K) bool of each seed."""

    segments: np.ndarray
    mean: np.ndarray
    on: list[np.ndarray]


def _to_segment(batch: Batch, i: int) -> tuple[np.ndarray, int, np.ndarray | None, str]:
    # what `_segment` takes, small enough to be sent to another process
    image, _, seed = batch.patch(i)
    return image.permute(1, 2, 0).numpy(), seed, None if batch.nuclei is None else batch.nuclei[i], batch.name(i)


class Lime(Sampling):
    """lime's image explainer of the target's probability: 500 samples, quickshift, the 3 strongest superpixels."""

    name = "lime"
    label = "LIME"
    family = "perturbation"
    citations = ("ribeiro2016",)
    Options = Options
    library_package = "lime"
    checks = ("r2", "stability")
    segmented: _Segmented

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """segments (H, W) uint16, superpixel numbers from 0; weights (K,) float32, NaN after the last superpixel."""
        del net
        return {"segments": RawSpec(size, np.uint16), "weights": RawSpec((_most(size),), np.float32, float("nan"))}

    def patches(self, net: Network, images: torch.Tensor, batch: Batch) -> Iterator[tuple[int, Self]]:
        """One copy of the method a patch, with the patch `segmented`; the next patches are segmented meanwhile."""
        segmented = compute_ahead(self._segment, map(partial(_to_segment, batch), range(len(batch))), *segmenting(net))
        for i, one in enumerate(segmented):
            yield i, self.for_patch(images[i], batch, i, segmented=one)

    def _segment(self, image: np.ndarray, seed: int, nuclei: np.ndarray | None, name: str) -> _Segmented:
        # image: (H, W, 3) float32
        pixels = image.astype(np.float64)
        segments = self.segments(pixels, nuclei)
        count, most = int(segments.max()) + 1, _most(segments.shape)
        if count > most:
            o = self.options
            larger = f"kernel_size={2 * o.kernel_size:g}" if o.segments == "quickshift" else "segments=quickshift"
            raise InputRefused(
                f"lime: {name} has {count} superpixels, at most {most}; ask for larger ones with -O lime.{larger}"
            )
        mean = mean_colours(pixels, segments).astype(np.float32)
        seeds = [seed, (seed + 1) % 2**32] if self.options.stability else [seed]
        return _Segmented(segments, mean, [draw_switches(s, self.options.samples, count) for s in seeds])

    def segments(self, pixels: np.ndarray, nuclei: np.ndarray | None) -> np.ndarray:
        """Superpixels (H, W) of an image (H, W, 3) float64; nuclei: (2, H, W) probabilities, for segments=nuclei."""
        o = self.options
        superpixels = quickshift(pixels, o.kernel_size, o.max_dist, o.ratio)
        if o.segments == "quickshift":
            return superpixels
        if nuclei is None:
            raise InputRefused("lime: segments=nuclei takes them from a masks store; name it with --masks")
        return with_nuclei(superpixels, nuclei)

    def prepare(self) -> None:
        from histoxai.networks.inference import to_device

        parts, device = self.segmented, self.image.device
        self.rows = sum(len(on) for on in parts.on)
        self._on = to_device(np.concatenate(parts.on), device)
        self._numbers = to_device(parts.segments.astype(np.int64), device)
        self._mean = to_device(parts.mean, device).permute(2, 0, 1)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        """Write the patch with the superpixels that are off in their mean colours."""
        import torch

        on = self._on[start:stop][:, self._numbers]
        torch.where(on[:, None], self.image, self._mean, out=out)

    def reduce(self, outputs: torch.Tensor) -> Map:
        """Segments and weights, with R2 and, if asked for, the stability under the second seed."""
        y, on = outputs.double().numpy(), self.segmented.on
        weights, r2 = self._local_model(on[0], y[: len(on[0])])
        checks = {"r2": r2}
        if self.options.stability:
            checks["stability"] = spearman(weights, self._local_model(on[1], y[len(on[0]) :])[0])
        return Map(_stored(self.segmented.segments, weights), checks)

    def _local_model(self, on: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        if is_same_output(y):  # the regression would weigh rounding
            return np.zeros(on.shape[1]), float("nan")
        return ridge(on, y, sample_weights(on, self.options.kernel, self.options.width))

    def why_no_library(self) -> str:
        return "" if self.options.segments == "quickshift" else "lime takes no nuclei; leave lime.segments out"

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray]:
        """lime's own, ten perturbed images a pass."""
        segments, weights, _ = self._of_library(module, image, target, seed)
        return {"segments": segments, "weights": weights}

    def library_map(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> Map:
        """lime's own, with its R2 and, if asked for, the stability under a second seed."""
        segments, weights, r2 = self._of_library(module, image, target, seed)
        checks = {"r2": r2}
        if self.options.stability:
            checks["stability"] = spearman(weights, self._of_library(module, image, target, (seed + 1) % 2**32)[1])
        return Map(_stored(segments, weights), checks)

    def _of_library(
        self, module: nn.Module, image: torch.Tensor, target: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray, float]:
        # segments (H, W), weights (K,) float64, R2
        import torch
        from lime.lime_image import LimeImageExplainer

        outputs: list[np.ndarray] = []

        @torch.no_grad()
        def classify(images: np.ndarray) -> np.ndarray:
            x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).to(image)
            outputs.append(torch.softmax(module(x), dim=1).double().cpu().numpy())
            return outputs[-1]

        pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float64)
        segments = self.segments(pixels, None)
        kernel, distance = self._library_kernel(int(segments.max()) + 1)
        explanation: Any = LimeImageExplainer(random_state=seed, **kernel).explain_instance(
            pixels,
            classify,
            labels=(target,),
            top_labels=None,
            num_samples=self.options.samples,
            segmentation_fn=lambda _: segments,
            distance_metric=distance,
        )
        if is_same_output(np.concatenate(outputs)[:, target]):
            return segments, np.zeros(int(segments.max()) + 1), float("nan")
        pairs = dict(explanation.local_exp[target])
        return segments, np.array([pairs[k] for k in range(len(pairs))]), float(explanation.score)

    def _library_kernel(self, superpixels: int) -> tuple[dict[str, Any], str]:
        # arguments of lime's explainer, and its distance
        width = self.options.width
        if self.options.kernel == "cosine":  # the library's own, which is its default
            return {"kernel_width": width or COSINE_WIDTH}, "cosine"
        return {
            "kernel_width": width or L2_WIDTH * superpixels**0.5,
            "kernel": lambda distance, kernel_width: np.exp(-((distance / kernel_width) ** 2)),
        }, "euclidean"

    @classmethod
    def cost(cls, options: Any) -> str:
        return f"{options.samples * (2 if options.stability else 1)} forward"

    def evidence(self, raw: dict[str, np.ndarray]) -> np.ndarray:
        return level(raw["weights"][np.isfinite(raw["weights"])], (-1,))

    def signed(self, raw: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """Each superpixel's weight, divided among its pixels."""
        del size
        pixels = np.bincount(raw["segments"].ravel())
        return (_weights(raw) / np.maximum(pixels, 1)).astype(np.float32)[raw["segments"]][None]

    def relevance(self, raw: dict[str, np.ndarray], size: tuple[int, int], sign: str) -> np.ndarray:
        """Each superpixel's weight of one sign, on all of its pixels."""
        own = "positive" if self.options.positive else self.own_sign
        return one_sign(_weights(raw), own if sign == "own" else sign)[raw["segments"]]

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """1 on the `top` strongest superpixels, of either sign or with a positive weight, 0 elsewhere.

        Ties share the last places, each with its share of them, so that a map without contrast is constant.
        """
        del constant  # nothing is scaled
        weights = np.nan_to_num(_weights(raw))
        return strongest(weights if self.options.positive else np.abs(weights), self.options.top)[raw["segments"]]
