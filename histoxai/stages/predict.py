"""predict: patches.zarr + cls/ -> preds.zarr, what a classifier says of every patch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import provenance
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.networks.inference import pick_device, predict_patches
from histoxai.networks.run_folder import Run, open_run
from histoxai.networks.weights import load_model
from histoxai.settings import Predict, Work
from histoxai.store.create import create_or_match, match
from histoxai.store.jobs.runner import Task, do_items
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item

PREDICTIONS, EMBEDDING = "predictions", "embedding"


def predict(
    source: Path,
    model: Path,
    output: Path,
    settings: Predict,
    progress: Progress,
    work: Work,
) -> dict[str, Any]:
    """Classify every patch of a split, shard by shard; patches need no labels.

    Raises InputRefused where the run folder is no classifier or was trained on patches of another size,
    SettingsDiffer where the output was made otherwise.
    """
    provenance.keep_apart(output, source, model)
    patches = Patches(source)
    run = open_run(model, "classifier")
    _check(patches, run, progress)
    rows = patches.rows(settings.split)
    device = pick_device(settings.device, work.rank)
    item = _item(run, len(rows), settings)
    header = provenance.header(
        "predictions/1",
        {
            "split": settings.split,
            "embeddings": settings.embeddings,
            "micro_batch": settings.micro_batch,
            "device": device.type,
            "precision": "fp32",
            "memory_format": "channels_last",
            "shard_size": settings.shard_size,
        },
        None,
        {
            "patches": provenance.parent(patches.path, output, patches.digest),
            "classifier": provenance.parent(run.path, output, run.digest),
        },
    )
    index = {
        "row": rows.astype(np.int32),
        "patch_id": patches.patch_id[rows],
        "label": patches.label[rows].astype(np.int16),
    }
    attributes = {"classes": run.facts["classes"]}

    def prepare() -> Any:
        network = load_model(run, device)

        def compute(start: int, stop: int) -> dict[str, np.ndarray]:
            images = patches.read(rows[start:stop])
            return predict_patches(network, images, settings.micro_batch, device, settings.embeddings)

        return {PREDICTIONS: compute}

    task = Task(
        [item],
        lambda: create_or_match(output, header, index, [item], attrs=attributes, force=work.force),
        (lambda: match(output, header, [item])) if output.exists() and not work.force else None,
        prepare,
        partial(predict, source, model, output, settings),
        {"threads": work.threads, "micro_batch": settings.micro_batch},
    )
    summary = do_items(task, progress, work)
    return {"schema": "histoxai.predict/1", "output": str(output), "patches": len(rows), **summary}


def _item(run: Run, n: int, settings: Predict) -> Item:
    classes, size = len(run.facts["classes"]), settings.shard_size
    specs = [
        ArraySpec("logits", (n, classes), np.float32, size),
        ArraySpec("prediction", (n,), np.int16, size),
        ArraySpec("probability", (n,), np.float32, size),
    ]
    if settings.embeddings:
        model = load_model(run, torch.device("cpu"))
        width = model.get_submodule(str(model.head_layer)).in_features
        specs.append(ArraySpec(EMBEDDING, (n, int(width)), np.float32, size))
    return Item(PREDICTIONS, tuple(specs), piece=settings.micro_batch)


def _check(patches: Patches, run: Run, progress: Progress) -> None:
    if list(patches.size) != run.facts["size"]:
        h, w = run.facts["size"]
        raise InputRefused(
            f"{run.path}: was trained on patches of {w} x {h} px; {patches.path} has {patches.size[1]} x "
            f"{patches.size[0]}; ingest it with --size {h}, or train on patches of its size"
        )
    if patches.classes != run.facts["classes"]:
        progress.warn(
            f"{patches.path}: its classes ({', '.join(patches.classes) or 'none'}) are not those of {run.path} "
            f"({', '.join(run.facts['classes'])}); numbers in `prediction` count the latter, in `label` the former"
        )
    mine, theirs = patches.mpp, run.mpp
    if mine and theirs and abs(mine / theirs - 1) >= 0.05:
        progress.warn(
            f"the classifier learned at {theirs:g} micrometres per pixel and the patches have {mine:g}: tissue looks "
            "smaller or larger to it than it knows"
        )
