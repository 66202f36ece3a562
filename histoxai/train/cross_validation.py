"""Cross-validation: a run for each fold of one store, and what all folds say together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.score.summary.scores import cancer_of
from histoxai.settings import Statistics
from histoxai.statistics.classification import classifier_scores
from histoxai.store.patches import Patches
from histoxai.store.shards import open_store
from histoxai.store.storage.files import write_json
from histoxai.train.ranks import Placement


def check_folds(stores: Sequence[Path], output: Path, place: Placement) -> list[tuple[Path, Path]]:
    """Each store with the run folder of its fold, in order of the folds.

    Raises InputRefused where they are not different folds of one store, cut with the same seed, UsageError where others
    than we have started several processes.
    """
    if place.world > 1 and not place.launch:
        # they meet at one address for one training
        raise UsageError(
            "several folds under srun or torchrun: train each in a job of its own, then all with one process"
        )
    found: dict[int, Path] = {}
    first: tuple[Any, ...] | None = None
    for path in stores:
        header = open_store(path, "patches", "augment").header
        chosen = header["settings"]
        number = chosen.get("fold")
        if number is None:
            raise InputRefused(f"{path}: is no fold; make folds with `histoxai augment --folds K`")
        cut = {k: v for k, v in chosen.items() if k not in ("fold", "shard_size")}
        facts = (header["parents"]["patches"]["digest"], header["seed"], cut)
        if first is not None and facts != first:
            raise InputRefused(f"{path}: is a fold of another store, or cut with other settings, than {stores[0]}")
        if number in found:
            raise InputRefused(f"{path}: is fold {number}, as {found[number]} is")
        first, found[number] = facts, path
    return [(found[k], output / f"fold{k}") for k in sorted(found)]


def pooled(output: Path, stores: Sequence[Path], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the folds' test patches say together, every patch judged by a network that has not seen it.

    runs: summaries of `train-cls`, one of each store. Written as `folds.json` too. Intervals are by group over all
    patches; `accuracy_of_folds` has each fold's, and their mean and standard deviation.
    """
    logits, label, group, classes = [], [], [], []
    for path, run in zip(stores, runs, strict=True):
        patches = Patches(path)
        store = open_store(Path(run["output"]) / "predictions.zarr", "predictions", "train-cls")
        logits.append(store.read("logits"))
        label.append(store.read("label"))
        group.append(patches.group[store.read("row")])
        classes = patches.classes
    accuracy = [run["accuracy"] for run in runs]
    everything = [np.concatenate(parts) for parts in (logits, label, group)]
    summary = {
        "schema": "histoxai.train-cls-folds/1",
        "output": str(output),
        "runs": [run["output"] for run in runs],
        "folds": open_store(stores[0], "patches", "augment").header["settings"]["folds"],
        "classes": classes,
        "accuracy_of_folds": {
            "each": accuracy,
            "mean": float(np.mean(accuracy)),
            "sd": float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        },
        "scores": classifier_scores(
            everything[0],
            everything[1].astype(np.int64),
            everything[2],
            classes,
            cancer_of(None, classes),
            Statistics(),
        ),
    }
    write_json(output / "folds.json", summary)
    return summary
