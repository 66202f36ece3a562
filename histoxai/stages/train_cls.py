"""train-cls: balanced.zarr -> cls/, a run folder with a classifier and its predictions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from histoxai import registry
from histoxai.errors import InputRefused
from histoxai.metrics.classification import accuracy_table
from histoxai.models.batches import Source, pick_device, predict
from histoxai.models.checkpoint import build, finish
from histoxai.models.fit import Job, fit, forget
from histoxai.models.pretrained import freeze_encoder, load_weights
from histoxai.models.records import training_facts, write_history, write_predictions
from histoxai.models.relatives import leaks_in_words
from histoxai.models.runs import Run, discard_run, match, open_run
from histoxai.places import require_local
from histoxai.progress import Progress
from histoxai.provenance import keep_apart, keyed_seed
from histoxai.settings import TrainCls
from histoxai.store.patches import Patches
from histoxai.transforms.augmentation import augmenter

_MICRO_BATCH = 16


def train_cls(
    source: Path,
    output: Path,
    settings: TrainCls,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train on the train split, stop on the validation loss, measure on the test split.

    Raises InputRefused where the store has no classes or no such splits, SettingsDiffer where the output
    was made with other settings.
    """
    registry.resolve_name("classifier", settings.arch)
    require_local(output, "run folders")
    keep_apart(output, source)
    if settings.freeze and settings.weights is None:
        progress.warn("--freeze encoder without --weights: the head learns on features of weights as they were drawn")
    patches = Patches(source)
    if not patches.classes:
        raise InputRefused(f"{source}: its patches have no classes; ingest a labelled source")
    if settings.batch_size < 2 and settings.arch == "thesis-cnn":
        raise InputRefused("--batch-size 1: thesis-cnn normalises over the batch and needs 2 or more")
    rows = {s: patches.rows(s) for s in ("train", "validation")}
    leaks = _leaks(patches, settings, progress)
    device = pick_device(settings.device)
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
    if dry_run:
        state = "new" if force else match(output, facts["identity"], "train-cls")
        return {"schema": "histoxai.train-cls/1", "dry_run": True, "state": state}
    if force:
        discard_run(output)
    if match(output, facts["identity"], "train-cls") != "finished":
        job = Job(
            model,
            functional.cross_entropy,
            _accuracy,
            "accuracy",
            Source(patches, rows["train"], masks=False, augment=augmenter(settings.augment, settings.seed)),
            Source(patches, rows["validation"], masks=False),
        )
        history, best = fit(job, settings, device, output, facts["identity"], progress)
        _conclude(output, facts, job.model, patches, device, history, best)
    forget(output)
    return _summary(open_run(output, "classifier"), output)


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
    device: torch.device,
    history: list[dict[str, float]],
    best: int,
) -> Run:
    model.eval()
    split = "test" if (patches.split == 3).any() else "validation"
    rows = patches.rows(split)
    parts = [predict(model, patches.read(rows[k : k + 256]), _MICRO_BATCH, device) for k in range(0, len(rows), 256)]
    predictions = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    write_history(output, history)
    write_predictions(output, patches, rows, split, predictions)
    table = accuracy_table(patches.label[rows], predictions["prediction"], patches.classes)
    return finish(
        output, {**facts, "best_epoch": best, "epochs": len(history), "split": split, "metrics": table}, model
    )


def _summary(run: Run, output: Path) -> dict[str, Any]:
    kept = ("arch", "best_epoch", "epochs", "split", "mpp", "size", "classes")
    return {
        "schema": "histoxai.train-cls/1",
        "output": str(output),
        "digest": run.digest,
        **{k: run.facts[k] for k in kept},
        **run.facts["metrics"],
    }
