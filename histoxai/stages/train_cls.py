"""train-cls: balanced.zarr -> cls/, a run folder with a classifier and its predictions."""

from __future__ import annotations

import shlex
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
from histoxai.networks.inference import pick_device, predict
from histoxai.networks.pretrained import freeze_encoder, load_weights
from histoxai.networks.run_folder import Run, open_run
from histoxai.networks.weights import build, finish
from histoxai.report.figures.style import to_png
from histoxai.report.figures.training import confusion_matrix
from histoxai.score.summary.scores import cancer_of
from histoxai.settings import Statistics, TrainCls
from histoxai.split.leaks import leaks_in_words
from histoxai.statistics.calibration import best_temperature
from histoxai.statistics.classification import accuracy_table, classifier_scores
from histoxai.store.patches import Patches
from histoxai.store.storage.files import write_atomically
from histoxai.train.loop import Fitted, Job
from histoxai.train.losses import balanced_weights, classification_loss
from histoxai.train.outputs import training_facts, write_history, write_predictions
from histoxai.train.ranks import Placement, placement
from histoxai.train.task import Wanted, measured_split, sources, train, training_record

_MICRO_BATCH = 16


def train_cls(
    source: Path,
    output: Path,
    settings: TrainCls,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
    find_lr: bool = False,
) -> dict[str, Any]:
    """Train on the train split, stop on the validation loss, measure on the test split.

    Raises InputRefused where the store has no classes or no such splits, SettingsDiffer where the output
    was made with other settings. Empty in a process that is not the first of several.
    """
    registry.resolve_name("classifier", settings.arch)
    require_local(output, "run folders")
    keep_apart(output, source)
    place = placement(settings.devices, settings.nodes)
    if place.rank:
        progress = Silent()
    if settings.freeze and settings.weights is None:
        progress.warn("--freeze encoder without --weights: the head learns on features of weights as they were drawn")
    patches = Patches(source)
    if not patches.classes:
        raise InputRefused(f"{source}: its patches have no classes; ingest a labelled source")
    if len(patches.classes) == 1:
        progress.warn(f"{source}: has one class only, {patches.classes[0]}: there is nothing to tell apart")
    leaks = _leaks(patches, settings, progress)
    device = pick_device(settings.device, precision=settings.precision)
    recipe: dict[str, Any] = {"classes": len(patches.classes), "size": list(patches.size)}
    if settings.first_layer:
        recipe["normalise"] = settings.first_layer
    facts = training_facts("classifier", settings.arch, recipe, settings, device, patches, output)
    facts["leaks"] = leaks
    torch.manual_seed(keyed_seed(settings.seed, "init"))
    model = build(facts)
    if settings.weights is not None:
        facts["pretrained"] = load_weights(model, settings.weights, progress)
        # the file itself, wherever it lies, is what makes two runs the same
        facts["identity"]["settings"]["weights"] = facts["pretrained"]["checksum"]
    if settings.freeze:
        freeze_encoder(model)
    said = train(
        Wanted("train-cls", output, settings, force, dry_run, find_lr),
        place,
        facts,
        _job(model, patches, settings),
        partial(train_cls, source, output, settings, Silent(), force=force),
        partial(_conclude, output, facts, model, patches, settings, place),
        progress,
    )
    return _summary(open_run(output, "classifier"), output) if said is None else said


def _job(model: torch.nn.Module, patches: Patches, settings: TrainCls) -> Job:
    train, validation = sources(patches, settings, masks=False, balanced=settings.sampling == "balanced")
    weights = None
    if settings.class_weights == "balanced":
        weights = balanced_weights(patches.label[train.rows], len(patches.classes))
    return Job(
        model,
        classification_loss(weights, settings.label_smoothing),
        _accuracy,
        "accuracy",
        train,
        validation,
        settings.mixup,
    )


def _leaks(patches: Patches, settings: TrainCls, progress: Progress) -> list[str]:
    """The firewall: splits that share relatives are refused, or go on record."""
    found = leaks_in_words(patches)
    if found and not settings.allow_leakage:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        look = shlex.join(["histoxai", "audit", str(patches.path)])
        raise InputRefused(
            f"{patches.path}: its splits leak: {found[0]}{more}; `{look}` shows all; split again with "
            "`histoxai augment`, or say --allow-leakage, which goes on record"
        )
    for line in found:
        progress.warn(f"leakage: {line}")
    return found


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(dim=1) == labels).float().mean()


def _conclude(
    output: Path,
    facts: dict[str, Any],
    model: torch.nn.Module,
    patches: Patches,
    settings: TrainCls,
    place: Placement,
    fitted: Fitted,
    device: torch.device,
) -> None:
    calibration = _calibrate(model, patches, device) if settings.temperature else None
    split = measured_split(patches)
    rows = patches.rows(split)
    predictions = _predictions(model, patches, rows, device)
    write_history(output, fitted.history)
    write_predictions(output, patches, rows, split, predictions)
    label = patches.label[rows]
    table = accuracy_table(label, predictions["prediction"], patches.classes)
    write_atomically(output / "confusion.png", to_png(confusion_matrix(np.array(table["confusion"]), patches.classes)))
    grades = cancer_of(None, patches.classes)
    scores = classifier_scores(predictions["logits"], label, patches.group[rows], patches.classes, grades, Statistics())
    found: dict[str, Any] = {
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "split": split,
        "metrics": {**table, "scores": scores},
        "training": training_record(fitted, place),
    }
    if calibration is not None:
        found["calibration"] = calibration
    finish(output, {**facts, **found}, model)


def _predictions(
    model: torch.nn.Module, patches: Patches, rows: np.ndarray, device: torch.device
) -> dict[str, np.ndarray]:
    parts = [predict(model, patches.read(rows[k : k + 256]), _MICRO_BATCH, device) for k in range(0, len(rows), 256)]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _calibrate(model: torch.nn.Module, patches: Patches, device: torch.device) -> dict[str, float]:
    """Divide the head's weights by the temperature that makes validation probabilities most likely.

    In the weights, so that every later command has calibrated probabilities; no prediction changes.
    """
    rows = patches.rows("validation")
    found = best_temperature(_predictions(model, patches, rows, device)["logits"], patches.label[rows])
    head = model.get_submodule(str(model.head_layer))
    with torch.no_grad():
        for weight in head.parameters():
            weight /= found["temperature"]
    return found


def _summary(run: Run, output: Path) -> dict[str, Any]:
    kept = ("arch", "best_epoch", "epochs", "split", "mpp", "size", "classes")
    return {
        "schema": "histoxai.train-cls/1",
        "output": str(output),
        "digest": run.digest,
        **{k: run.facts[k] for k in kept},
        **run.facts["metrics"],
        "training": run.facts["training"],
        "calibration": run.facts.get("calibration"),
    }
