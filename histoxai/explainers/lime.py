"""LIME through lime.

Ribeiro, Singh and Guestrin 2016, arXiv 1602.04938: superpixels are switched off at random (filled with
their mean colour) and a weighted ridge regression of the target's probability on them gives the weights.

Replaced here: how the library builds its perturbed images, one superpixel at a time in Python (0.8 to
1.35 s of 500 samples at 256 px) with a progress bar of its own. One gather does the same, to the bit, in
a fraction of that (`tests/unit/test_explainers.py` compares). Segmentation, sampling order, distances and
regression are the library's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.errors import InputRefused
from histoxai.explainers.base import Batch, Explainer, RawSpec
from histoxai.settings import bounded, check_bounds

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Options:
    """samples: perturbed images. top: superpixels shown. kernel_size, max_dist, ratio: of quickshift."""

    samples: int = bounded(500, ge=2)
    top: int = bounded(3, ge=1)
    kernel_size: float = bounded(4.0, gt=0)
    max_dist: float = bounded(200.0, gt=0)
    ratio: float = bounded(0.2, ge=0, le=1)

    def __post_init__(self) -> None:
        check_bounds(self)


def _perturber(seed: int) -> Any:
    from lime.lime_image import LimeImageExplainer

    class Perturber(LimeImageExplainer):
        def data_labels(
            self,
            image: np.ndarray,
            fudged_image: np.ndarray,
            segments: np.ndarray,
            classifier_fn: Callable[[np.ndarray], np.ndarray],
            num_samples: int,
            batch_size: int = 10,
        ) -> tuple[np.ndarray, np.ndarray]:
            count = len(np.unique(segments))
            data = self.random_state.randint(0, 2, num_samples * count).reshape((num_samples, count))
            data[0, :] = 1
            labels = []
            for start in range(0, num_samples, batch_size):
                on = data[start : start + batch_size].astype(bool)[:, segments]
                labels.append(classifier_fn(np.where(on[..., None], image, fudged_image)))
            return data, np.concatenate(labels)

    return Perturber(random_state=seed)


class Lime(Explainer):
    """lime's image explainer of the target's probability: 500 samples, quickshift, the 3 strongest superpixels.

    Source: arXiv 1602.04938.
    """

    Options = Options

    def raw_specs(self, model: nn.Module, size: tuple[int, int]) -> dict[str, RawSpec]:
        """segments (H, W) uint16, superpixel numbers from 0; weights (K,) float32, NaN behind the last one."""
        most = min(65535, size[0] * size[1] // 16)
        return {"segments": RawSpec(size, np.uint16), "weights": RawSpec((most,), np.float32, float("nan"))}

    def attribute(self, model: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
        """Patch by patch; networks see batches of `micro_batch` perturbed images."""
        size = (batch.images.shape[2], batch.images.shape[3])
        specs = self.raw_specs(model, size)
        segments = np.zeros((len(batch), *size), np.uint16)
        weights = np.full((len(batch), *specs["weights"].shape), np.nan, np.float32)
        for i in range(len(batch)):
            found, values = self._explain(model, batch, i)
            if len(values) > weights.shape[1]:
                raise InputRefused(
                    f"lime: {len(values)} superpixels in a patch, at most {weights.shape[1]}; "
                    "ask for larger ones with -O lime.kernel_size=4"
                )
            segments[i] = found
            weights[i, : len(values)] = values
        return {"segments": segments, "weights": weights}

    def _explain(self, model: nn.Module, batch: Batch, i: int) -> tuple[np.ndarray, np.ndarray]:
        from lime.wrappers.scikit_image import SegmentationAlgorithm

        target, o = int(batch.targets[i]), self.options
        image = batch.images[i].permute(1, 2, 0).cpu().numpy().astype(np.float64)
        segmenter = SegmentationAlgorithm(
            "quickshift", kernel_size=o.kernel_size, max_dist=o.max_dist, ratio=o.ratio, random_seed=42
        )
        explanation: Any = _perturber(int(batch.seeds[i])).explain_instance(
            image,
            _probabilities(model, batch.images.device),
            labels=(target,),
            top_labels=None,
            num_samples=o.samples,
            batch_size=self.micro_batch,
            segmentation_fn=segmenter,
        )
        pairs = explanation.local_exp[target]
        values = np.zeros(len(pairs))
        values[[s for s, _ in pairs]] = [w for _, w in pairs]
        return explanation.segments, values

    def render(self, raw: dict[str, np.ndarray], size: tuple[int, int], constant: float) -> np.ndarray:
        """1 on the `top` strongest superpixels of either sign, 0 elsewhere."""
        del constant  # nothing is scaled
        weights = raw["weights"][np.isfinite(raw["weights"])]
        strongest = np.argsort(-np.abs(weights), kind="stable")[: self.options.top]
        return np.isin(raw["segments"], strongest).astype(np.float64)


def _probabilities(model: nn.Module, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    @torch.no_grad()
    def classify(images: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).to(device)
        return torch.softmax(model(x), dim=1).double().cpu().numpy()

    return classify
