"""masks: balanced.zarr + seg/ -> masks.zarr, tumor and non-tumor probability planes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.networks.inference import forward, pick_device
from histoxai.networks.run_folder import Run, open_run
from histoxai.networks.weights import load_model
from histoxai.settings import Masks, Work
from histoxai.store.create import create_or_match, match
from histoxai.store.jobs.runner import Task, do_items
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item

PROBABILITY = "probability"


def masks(
    source: Path,
    model: Path,
    output: Path,
    settings: Masks,
    progress: Progress,
    work: Work,
) -> dict[str, Any]:
    """Segment every patch of a split, shard by shard.

    Raises InputRefused where the run folder is no segmenter, SettingsDiffer where the output was made otherwise.
    """
    provenance.keep_apart(output, source, model)
    patches = Patches(source)
    run = open_run(model, "segmenter")
    rows = patches.rows(settings.split)
    device = pick_device(settings.device, work.rank)
    scale = _scale(patches, run, settings, progress)
    spec = ArraySpec(PROBABILITY, (len(rows), 2, *patches.size), np.float32, settings.shard_size)
    item = Item("masks", (spec,), piece=settings.micro_batch)
    header = provenance.header(
        "masks/1",
        {
            "split": settings.split,
            "scale": scale,
            "micro_batch": settings.micro_batch,
            "device": device.type,
            "precision": "fp32",
            "memory_format": "channels_last",
            "shard_size": settings.shard_size,
        },
        None,
        {
            "patches": provenance.parent(patches.path, output, patches.digest),
            "segmenter": provenance.parent(run.path, output, run.digest),
        },
    )
    index = {"row": rows.astype(np.int32), "patch_id": patches.patch_id[rows]}

    def prepare() -> Any:
        network = load_model(run, device)

        def compute(start: int, stop: int) -> dict[str, np.ndarray]:
            images = patches.read(rows[start:stop])
            return {PROBABILITY: segment(network, images, settings.micro_batch, device, scale)}

        return {"masks": compute}

    task = Task(
        [item],
        lambda: create_or_match(output, header, index, [item], force=work.force),
        (lambda: match(output, header, [item])) if output.exists() and not work.force else None,
        prepare,
        partial(masks, source, model, output, settings),
        {"threads": work.threads, "micro_batch": settings.micro_batch},
    )
    summary = do_items(task, progress, work)
    return {"schema": "histoxai.masks/1", "output": str(output), "patches": len(rows), **summary}


def segment(
    network: torch.nn.Module, images: np.ndarray, micro_batch: int, device: torch.device, scale: float = 1.0
) -> np.ndarray:
    """Probability planes (n, 2, H, W) float32 of (n, H, W, 3) uint8 patches.

    scale: how much larger the segmenter sees them (patches' mpp over its own); planes come back at the
    patches' size.
    """

    def planes(x: torch.Tensor) -> torch.Tensor:
        if scale == 1.0:
            return torch.sigmoid(network(x))
        x = functional.interpolate(x, scale_factor=scale, mode="bilinear", antialias=scale < 1)
        found = torch.sigmoid(network(x))
        return functional.interpolate(found, size=images.shape[1:3], mode="bilinear", antialias=scale > 1)

    return forward(planes, images, micro_batch, device)


def _scale(patches: Patches, run: Run, settings: Masks, progress: Progress) -> float:
    if patches.mpp is None or run.mpp is None:
        progress.warn(
            f"{patches.path if patches.mpp is None else run.path}: mpp unknown, so it is unknown whether the "
            "segmenter sees nuclei at the size it learned; give --mpp to `histoxai ingest`"
        )
        return 1.0
    ratio = patches.mpp / run.mpp
    if abs(ratio - 1) < 0.05:
        return 1.0
    if settings.rescale:
        progress.say(f"patches are shown to the segmenter {ratio:g} times larger ({patches.mpp:g} to {run.mpp:g} mpp)")
        return round(ratio, 4)
    progress.warn(
        f"the segmenter learned at {run.mpp:g} micrometres per pixel and the patches have {patches.mpp:g}: "
        "nuclei look smaller or larger to it than it knows; --rescale brings them to its scale"
    )
    return 1.0
