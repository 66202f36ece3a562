"""train-cls: balanced.zarr -> cls/, a run folder with a classifier and its predictions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import registry
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress, Silent
from histoxai.core.provenance import keep_apart, keyed_seed
from histoxai.core.s3_paths import require_local
from histoxai.networks.inference import pick_device, predict_patches
from histoxai.networks.pretrained import freeze_encoder, load_weights
from histoxai.networks.run_folder import open_run, training_summary
from histoxai.networks.weights import build
from histoxai.report.figures.style import to_png
from histoxai.report.figures.training import confusion_matrix
from histoxai.score.summary.scores import cancer_of
from histoxai.settings import Statistics, TrainCls, Work
from histoxai.split.leaks import describe_leaks
from histoxai.statistics.calibration import best_temperature
from histoxai.statistics.classification import accuracy_table, classifier_scores
from histoxai.store.patches import Patches
from histoxai.store.storage.files import write_atomically
from histoxai.train.cross_validation import train_folds
from histoxai.train.loop import TrainingInputs
from histoxai.train.losses import balanced_weights, classification_loss
from histoxai.train.outputs import Evaluation, NetworkRecipe, training_facts, write_predictions
from histoxai.train.ranks import find_ranks
from histoxai.train.task import TrainingTask, evaluation_split, split_datasets, train

_MICRO_BATCH = 16
_READ = 256  # patches in memory at once


def train_cls(source: Path, output: Path, settings: TrainCls, progress: Progress, work: Work) -> dict[str, Any]:
    """Train on the train split, stop on the validation loss, evaluate on the test split.

    Raises InputRefused where the store has no classes or no such splits, SettingsDiffer where the output was made with
    other settings. The summary is empty in all ranks but the first.
    """
    registry.resolve_name("classifier", settings.arch)
    require_local(output, "run folders")
    keep_apart(output, source)
    ranks = find_ranks(settings.devices, settings.nodes)
    if ranks.rank:
        progress = Silent()
    patches = _open(source, settings, progress)
    leaks = _check_leaks(patches, settings, progress)
    device = pick_device(settings.device, ranks.local_rank, settings.precision)
    facts = training_facts(_recipe(patches, settings), settings, device.type, patches, output)
    facts["leaks"] = leaks
    model = _build(facts, settings, progress)
    task = TrainingTask(
        command="train-cls",
        output=output,
        settings=settings,
        work=work,
        ranks=ranks,
        facts=facts,
        inputs=_inputs(model, patches, settings),
        rerun=partial(train_cls, source, output, settings, Silent(), Work(force=work.force)),
        evaluate=partial(_evaluate, output, model, patches, settings),
    )
    early = train(task, progress)
    if early is not None:
        return early
    run = open_run(output, "classifier")
    summary = training_summary(run, "train-cls", output, ("classes",))
    return summary | {"calibration": run.facts.get("calibration")}


def train_cls_folds(
    stores: Sequence[Path], output: Path, settings: TrainCls, progress: Progress, work: Work
) -> dict[str, Any]:
    """Train on one store; or on several folds of one, each in a run folder of its own, and score them together."""
    if len(stores) == 1:
        return train_cls(stores[0], output, settings, progress, work)
    return train_folds(train_cls, stores, output, settings, progress, work)


def _open(source: Path, settings: TrainCls, progress: Progress) -> Patches:
    if settings.freeze and settings.weights is None:
        progress.warn("--freeze encoder without --weights: the head learns on features of untrained weights")
    patches = Patches(source)
    if not patches.classes:
        raise InputRefused(f"{source}: its patches have no classes; ingest a labelled source")
    if len(patches.classes) == 1:
        progress.warn(f"{source}: has one class only, {patches.classes[0]}: there is nothing to tell apart")
    return patches


def _check_leaks(patches: Patches, settings: TrainCls, progress: Progress) -> list[str]:
    """Refuse splits that share relatives, or return the leaks for the record where they are allowed."""
    leaks = describe_leaks(patches)
    if leaks and not settings.allow_leakage:
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        audit = shlex.join(["histoxai", "audit", str(patches.path)])
        raise InputRefused(
            f"{patches.path}: its splits leak: {leaks[0]}{more}; `{audit}` shows all; split again with "
            "`histoxai augment`, or say --allow-leakage, which goes on record"
        )
    for leak in leaks:
        progress.warn(f"leakage: {leak}")
    return leaks


def _recipe(patches: Patches, settings: TrainCls) -> NetworkRecipe:
    arguments: dict[str, Any] = {"classes": len(patches.classes), "size": list(patches.size)}
    if settings.first_layer:
        arguments["normalise"] = settings.first_layer
    if settings.arch in registry.RECIPE_VERSIONS:
        arguments["version"] = registry.RECIPE_VERSIONS[settings.arch]
    return NetworkRecipe("classifier", settings.arch, arguments)


def _build(facts: dict[str, Any], settings: TrainCls, progress: Progress) -> torch.nn.Module:
    torch.manual_seed(keyed_seed(settings.seed, "init"))
    model = build(facts)
    if settings.weights is not None:
        facts["pretrained"] = load_weights(model, settings.weights, progress, settings.allow_partial_weights)
        # two runs are the same if their files have the same content, wherever those lie
        facts["identity"]["settings"]["weights"] = facts["pretrained"]["checksum"]
    if settings.freeze:
        freeze_encoder(model)
    return model


def _inputs(model: torch.nn.Module, patches: Patches, settings: TrainCls) -> TrainingInputs:
    train, validation = split_datasets(patches, settings, masks=False, balanced=settings.sampling == "balanced")
    weights = None
    if settings.class_weights == "balanced":
        weights = balanced_weights(patches.label[train.rows], len(patches.classes))
    loss = classification_loss(weights, settings.label_smoothing)
    return TrainingInputs(model, loss, _accuracy, "accuracy", train, validation, settings.mixup)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(dim=1) == labels).float().mean()


def _evaluate(
    output: Path, model: torch.nn.Module, patches: Patches, settings: TrainCls, device: torch.device
) -> Evaluation:
    """Calibrate the classifier if asked to, evaluate it, and write its predictions and confusion matrix."""
    calibration = {"calibration": _calibrate(model, patches, device)} if settings.temperature else {}
    split = evaluation_split(patches)
    rows = patches.rows(split)
    predictions = _predict(model, patches, rows, device)
    write_predictions(output, patches, rows, split, predictions)
    label, classes, logits = patches.label[rows], patches.classes, predictions["logits"]
    table = accuracy_table(label, predictions["prediction"], classes)
    write_atomically(output / "confusion.png", to_png(confusion_matrix(np.array(table["confusion"]), classes)))
    scores = classifier_scores(logits, label, patches.group[rows], classes, cancer_of(None, classes), Statistics())
    return Evaluation(split, {**table, "scores": scores}, calibration)


def _predict(model: torch.nn.Module, patches: Patches, rows: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    batches = (patches.read(rows[k : k + _READ]) for k in range(0, len(rows), _READ))
    parts = [predict_patches(model, images, _MICRO_BATCH, device) for images in batches]
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _calibrate(model: torch.nn.Module, patches: Patches, device: torch.device) -> dict[str, float]:
    """Divide the head's weights by the temperature that makes validation labels most likely.

    Every later command then has calibrated probabilities, and no predicted class changes.
    """
    rows = patches.rows("validation")
    calibration = best_temperature(_predict(model, patches, rows, device)["logits"], patches.label[rows])
    head = model.get_submodule(str(model.head_layer))
    with torch.no_grad():
        for weight in head.parameters():
            weight /= calibration["temperature"]
    return calibration
