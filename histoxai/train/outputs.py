"""Write what both training stages leave in a run folder beside the weights: facts, history, predictions."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance
from histoxai.settings import Training
from histoxai.store.create import create_or_match
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item
from histoxai.train.loop import TrainingResult
from histoxai.train.ranks import Ranks

_NORMALISATION = "uint8 / 255"


@dataclass(frozen=True)
class NetworkRecipe:
    """What rebuilds a network: kind (classifier or segmenter), registered name, and its plain arguments."""

    kind: str
    arch: str
    arguments: dict[str, Any]


def training_facts(
    network: NetworkRecipe, settings: Training, device_type: str, patches: Patches, output: Path
) -> dict[str, Any]:
    """Return `run.json` as it is before training: recipe, settings, and where the data came from.

    `identity` is the part that must be equal for a run to be resumed. device_type: cpu or cuda.
    """
    chosen = provenance.plain(settings) | {"device": device_type}
    parents = {"patches": provenance.parent(patches.path, output, patches.digest)}
    normalise, version = (network.arguments.get(k) for k in ("normalise", "version"))
    return {
        **provenance.header("run/1", chosen, settings.seed, parents),
        "kind": network.kind,
        "arch": network.arch,
        "recipe": network.arguments,
        "classes": patches.classes,
        "size": list(patches.size),
        "mpp": patches.mpp,
        "normalisation": _NORMALISATION + (f", {normalise} inside" if normalise else ""),
        "identity": {
            "kind": network.kind,
            "settings": {k: v for k, v in chosen.items() if k not in Training.HOW},
            "patches": patches.digest,
            **({"network_version": version} if version else {}),
        },
    }


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a trained network on one split, and further facts for `run.json`."""

    split: str
    metrics: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)


def result_facts(result: TrainingResult, evaluation: Evaluation, ranks: Ranks) -> dict[str, Any]:
    """Return what `run.json` gets after training."""
    pace = result.patches_per_second
    return {
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "split": evaluation.split,
        "metrics": evaluation.metrics,
        "training": {
            "seconds": round(result.seconds, 1),
            "processes": ranks.world,
            "patches_per_second": None if pace is None else round(pace, 1),
        },
        **evaluation.more,
    }


def write_history(output: Path, history: list[dict[str, float]]) -> None:
    """Write the training curves as history.zarr; history.csv and TensorBoard events are written every epoch."""
    columns = {name: np.array([row[name] for row in history]) for name in history[0]}
    create_or_match(output / "history.zarr", provenance.header("history/1", {}, None, {}), columns, [], force=True)


def write_predictions(
    output: Path, patches: Patches, rows: np.ndarray, split: str, predictions: dict[str, np.ndarray]
) -> None:
    """Write predictions.zarr: logits, prediction and probability of one split, with row, patch_id and label."""
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
