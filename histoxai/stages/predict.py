"""predict: patches.zarr + cls/ -> preds.zarr, logits and predicted class of every patch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import provenance
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.networks.inference import predict_patches
from histoxai.networks.run_folder import Run, open_run
from histoxai.networks.weights import load_model
from histoxai.settings import Predict, Work
from histoxai.stages.base import ShardedStage, inference_settings
from histoxai.store.jobs.runner import Producers
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store

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

    source: patch store. model: run folder of a classifier. Raises InputRefused if the run folder holds no classifier
    or one for patches of another size, and SettingsDiffer if the output was made with other settings.
    """
    stage = _Predict(source, model, output, settings, progress, work)
    summary = stage.fill(partial(predict, source, model, output, settings))
    return {"schema": "histoxai.predict/1", "output": str(output), "patches": len(stage.rows), **summary}


class _Predict(ShardedStage):
    """Logits (n, classes) float32, predicted class (n,) int16 and its probability (n,) float32."""

    settings: Predict

    def __init__(
        self, source: Path, model: Path, output: Path, settings: Predict, progress: Progress, work: Work
    ) -> None:
        super().__init__(output, settings, progress, work)
        provenance.keep_apart(output, source, model)
        self.patches, self.run = Patches(source), open_run(model, "classifier")
        _check(self.patches, self.run, progress)
        self.rows = self.patches.rows(settings.split)
        self.attributes = {"classes": self.run.facts["classes"]}
        self.facts["micro_batch"] = settings.micro_batch

    def header(self) -> dict[str, Any]:
        own = {"split": self.settings.split, "embeddings": self.settings.embeddings}
        parents = {
            "patches": provenance.parent(self.patches.path, self.output, self.patches.digest),
            "classifier": provenance.parent(self.run.path, self.output, self.run.digest),
        }
        settings = {**own, **inference_settings(self.device, self.settings)}
        return provenance.header("predictions/1", settings, None, parents)

    def index(self) -> dict[str, np.ndarray]:
        return {
            "row": self.rows.astype(np.int32),
            "patch_id": self.patches.patch_id[self.rows],
            "label": self.patches.label[self.rows].astype(np.int16),
        }

    def items(self) -> list[Item]:
        n, classes, size = len(self.rows), len(self.run.facts["classes"]), self.settings.shard_size
        specs = [
            ArraySpec("logits", (n, classes), np.float32, size),
            ArraySpec("prediction", (n,), np.int16, size),
            ArraySpec("probability", (n,), np.float32, size),
        ]
        if self.settings.embeddings:
            model = load_model(self.run, torch.device("cpu"))
            width = model.get_submodule(str(model.head_layer)).in_features
            specs.append(ArraySpec(EMBEDDING, (n, int(width)), np.float32, size))
        return [Item(PREDICTIONS, tuple(specs), rows_per_step=self.settings.micro_batch)]

    def produce(self, store: Store) -> Producers:
        network = load_model(self.run, self.device)

        def compute(start: int, stop: int) -> dict[str, np.ndarray]:
            images = self.patches.read(self.rows[start:stop])
            return predict_patches(network, images, self.settings.micro_batch, self.device, self.settings.embeddings)

        return {PREDICTIONS: compute}


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
    given, trained = patches.mpp, run.mpp
    if given and trained and abs(given / trained - 1) >= 0.05:
        progress.warn(
            f"the classifier learned at {trained:g} micrometres per pixel and the patches have {given:g}: tissue looks "
            "smaller or larger than what it learned; predict on patches of its scale"
        )
