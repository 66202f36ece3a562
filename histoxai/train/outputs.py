"""What both training stages leave in a run folder beside the weights: facts, history, predictions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import provenance
from histoxai.settings import Training
from histoxai.store.create import create_or_match
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item

_NORMALISATION = "uint8 / 255"


def training_facts(
    kind: str,
    arch: str,
    recipe: dict[str, Any],
    settings: Training,
    device: torch.device,
    patches: Patches,
    output: Path,
) -> dict[str, Any]:
    """`run.json` before training: the rebuild recipe, what was asked for, where the data came from.

    `identity` is what must agree for a run to be resumed.
    """
    chosen = provenance.plain(settings) | {"device": device.type}
    header = provenance.header(
        "run/1", chosen, settings.seed, {"patches": provenance.parent(patches.path, output, patches.digest)}
    )
    return {
        **header,
        "kind": kind,
        "arch": arch,
        "recipe": recipe,
        "classes": patches.classes,
        "size": list(patches.size),
        "mpp": patches.mpp,
        "normalisation": _NORMALISATION + (f", {recipe['normalise']} inside" if recipe.get("normalise") else ""),
        "identity": {
            "kind": kind,
            "settings": {k: v for k, v in chosen.items() if k not in Training.HOW},
            "patches": patches.digest,
        },
    }


def write_history(output: Path, history: list[dict[str, float]]) -> None:
    """The training curves as history.zarr; history.csv and TensorBoard's events have been written epoch by epoch."""
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    create_or_match(output / "history.zarr", provenance.header("history/1", {}, None, {}), columns, [], force=True)


def write_predictions(
    output: Path, patches: Patches, rows: np.ndarray, split: str, predictions: dict[str, np.ndarray]
) -> None:
    """predictions.zarr: logits, prediction and probability of one split, with row, patch_id and label."""
    started = time.perf_counter()
    specs = tuple(ArraySpec(k, v.shape, v.dtype, max(1, len(rows))) for k, v in predictions.items())
    index = {
        "row": rows.astype(np.int32),
        "patch_id": patches.patch_id[rows],
        "label": patches.label[rows].astype(np.int16),
    }
    parents = {"patches": provenance.parent(patches.path, output / "predictions.zarr", patches.digest)}
    header = provenance.header("predictions/1", {"split": split}, None, parents)
    item = Item("predictions", specs)
    store = create_or_match(output / "predictions.zarr", header, index, [item], force=True)
    store.write(item, 0, predictions, time.perf_counter() - started)
