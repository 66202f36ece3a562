"""masks: balanced.zarr + seg/ -> masks.zarr, tumor and non-tumor probability planes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from histoxai.core.progress import Progress
from histoxai.networks.inference import forward
from histoxai.networks.run_folder import Run
from histoxai.settings import Masks, Work
from histoxai.stages.base import InferenceStage
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item

PROBABILITY = "probability"
_SAME_SCALE = 0.05  # relative difference of micrometres per pixel that does not matter


def masks(source: Path, model: Path, output: Path, settings: Masks, progress: Progress, work: Work) -> dict[str, Any]:
    """Segment every patch of a split, shard by shard.

    source: patch store. model: run folder of a segmenter. Raises InputRefused if the run folder holds no segmenter,
    and SettingsDiffer if the output was made with other settings.
    """
    stage = _Masks(source, model, output, settings, progress, work)
    summary = stage.fill(partial(masks, source, model, output, settings))
    return {"schema": "histoxai.masks/1", "output": str(output), "patches": len(stage.rows), **summary}


class _Masks(InferenceStage):
    """Probability planes (n, 2, H, W) float32 in 0..1 of the patches of a split."""

    settings: Masks
    kind, schema, item_name = "segmenter", "masks/1", "masks"

    def __init__(
        self, source: Path, model: Path, output: Path, settings: Masks, progress: Progress, work: Work
    ) -> None:
        super().__init__(source, model, output, settings, progress, work)
        self.scale = _scale(self.patches, self.run, settings, progress)
        self.recorded["scale"] = self.scale

    def items(self) -> list[Item]:
        shape = (len(self.rows), 2, *self.patches.size)
        spec = ArraySpec(PROBABILITY, shape, np.float32, self.settings.shard_size)
        return [Item(self.item_name, (spec,), rows_per_step=self.settings.micro_batch)]

    def infer(self, network: torch.nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
        return {PROBABILITY: segment(network, images, self.settings.micro_batch, self.device, self.scale)}


def segment(
    network: torch.nn.Module, images: np.ndarray, micro_batch: int, device: torch.device, scale: float = 1.0
) -> np.ndarray:
    """Return probability planes (n, 2, H, W) float32 in 0..1 of patches (n, H, W, 3) uint8.

    scale: factor by which patches are enlarged for the segmenter, their mpp over its own. The planes have the patches'
    size.
    """

    def planes(x: torch.Tensor) -> torch.Tensor:
        if scale == 1.0:
            return torch.sigmoid(network(x))
        x = functional.interpolate(x, scale_factor=scale, mode="bilinear", antialias=scale < 1)
        probability = torch.sigmoid(network(x))
        return functional.interpolate(probability, size=images.shape[1:3], mode="bilinear", antialias=scale > 1)

    return forward(planes, images, micro_batch, device)


def _scale(patches: Patches, run: Run, settings: Masks, progress: Progress) -> float:
    # How much larger the segmenter gets the patches.
    if patches.mpp is None or run.mpp is None:
        progress.warn(
            f"{patches.path if patches.mpp is None else run.path}: mpp unknown, so it is unknown whether the "
            "segmenter sees nuclei at the size it learned; give --mpp to `histoxai ingest`"
        )
        return 1.0
    ratio = patches.mpp / run.mpp
    if abs(ratio - 1) < _SAME_SCALE:
        return 1.0
    if settings.rescale:
        progress.say(
            f"patches are enlarged {ratio:g} times for the segmenter ({patches.mpp:g} to {run.mpp:g} micrometres per "
            "pixel)"
        )
        return round(ratio, 4)
    progress.warn(
        f"the segmenter learned at {run.mpp:g} micrometres per pixel and the patches have {patches.mpp:g}: "
        "nuclei look smaller or larger than those it learned; --rescale brings patches to its scale"
    )
    return 1.0
