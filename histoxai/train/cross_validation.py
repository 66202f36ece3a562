"""Cross-validation: train one run for each fold of a store, then score the test patches of all folds together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.progress import Progress, Silent
from histoxai.score.summary.scores import cancer_of
from histoxai.settings import Statistics, TrainCls, Work
from histoxai.statistics.classification import classifier_scores
from histoxai.store.patches import Patches
from histoxai.store.shards import open_store
from histoxai.store.storage.files import write_json
from histoxai.train.ranks import Ranks, find_ranks

# train_cls(store, run folder, settings, progress, work) -> summary
TrainFold = Callable[[Path, Path, TrainCls, Progress, Work], dict[str, Any]]


def train_folds(
    train_fold: TrainFold, stores: Sequence[Path], output: Path, settings: TrainCls, progress: Progress, work: Work
) -> dict[str, Any]:
    """Train a classifier on each fold into `output/foldK` and pool their predictions.

    All folds are checked before the first is trained. Returns the summary of one fold after a dry run, after a search
    for the learning rate (on the first fold alone), and in ranks other than the first. Raises as `check_folds`.
    """
    folds = check_folds(stores, output, find_ranks(settings.devices, settings.nodes))
    if settings.resume == "required" and not any(folder.exists() for _, folder in folds):
        raise UsageError(f"--resume required: {output} holds no run to go on with")
    settings = replace(settings, resume="auto")
    if work.only is None:
        for store, folder in folds:
            train_fold(store, folder, settings, Silent(), replace(work, only="check"))
    summaries = []
    for store, folder in folds[:1] if work.only == "find-lr" else folds:
        progress.say(f"{store} -> {folder}")
        summaries.append(train_fold(store, folder, settings, progress, work))
    finished = all("accuracy" in summary for summary in summaries)
    return pool_folds(output, [store for store, _ in folds], summaries) if finished else summaries[0]


def check_folds(stores: Sequence[Path], output: Path, ranks: Ranks) -> list[tuple[Path, Path]]:
    """Return each store with the run folder of its fold, in order of the folds.

    Raises InputRefused unless they are different folds of one store, made with equal settings; UsageError under srun or
    torchrun.
    """
    if ranks.world > 1 and not ranks.launch:
        # the processes meet at one address for one training
        raise UsageError(
            "several folds under srun or torchrun: train each in a job of its own, then all with one process"
        )
    folds: dict[int, Path] = {}
    origin: tuple[Any, ...] | None = None
    for path in stores:
        fold, own_origin = _fold_of(path)
        if origin is not None and own_origin != origin:
            raise InputRefused(f"{path}: is a fold of another store, or cut with other settings, than {stores[0]}")
        if fold in folds:
            raise InputRefused(f"{path}: is fold {fold}, as {folds[fold]} is")
        origin, folds[fold] = own_origin, path
    return [(folds[k], output / f"fold{k}") for k in sorted(folds)]


def _fold_of(path: Path) -> tuple[int, tuple[Any, ...]]:
    """Return the fold's number, and what all folds of one store share: its digest, the seed, the settings."""
    header = open_store(path, "patches", "augment").header
    settings = header["settings"]
    if settings.get("fold") is None:
        raise InputRefused(f"{path}: is no fold; make folds with `histoxai augment --folds K`")
    shared = {k: v for k, v in settings.items() if k not in ("fold", "shard_size")}
    return settings["fold"], (header["parents"]["patches"]["digest"], header["seed"], shared)


def pool_folds(output: Path, stores: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Score the test patches of all folds together, each predicted by the network that was not trained on it.

    summaries: of `train-cls`, one of each store. Writes the result as `folds.json` too. Intervals are by group over all
    patches; `accuracy_of_folds` has each fold's accuracy, their mean and their standard deviation.
    """
    classes = Patches(stores[0]).classes
    logits, label, group = _test_predictions(stores, [Path(summary["output"]) for summary in summaries])
    accuracy = [summary["accuracy"] for summary in summaries]
    result = {
        "schema": "histoxai.train-cls-folds/1",
        "output": str(output),
        "runs": [summary["output"] for summary in summaries],
        "folds": open_store(stores[0], "patches", "augment").header["settings"]["folds"],
        "classes": classes,
        "accuracy_of_folds": {
            "each": accuracy,
            "mean": float(np.mean(accuracy)),
            "sd": float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        },
        "scores": classifier_scores(logits, label, group, classes, cancer_of(None, classes), Statistics()),
    }
    write_json(output / "folds.json", result)
    return result


def _test_predictions(stores: Sequence[Path], runs: Sequence[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits (n, C), label (n,) int64 and group (n,) of the test patches of all folds."""
    logits, label, group = [], [], []
    for path, run in zip(stores, runs, strict=True):
        store = open_store(run / "predictions.zarr", "predictions", "train-cls")
        logits.append(store.read("logits"))
        label.append(store.read("label"))
        group.append(Patches(path).group[store.read("row")])
    return np.concatenate(logits), np.concatenate(label).astype(np.int64), np.concatenate(group)
