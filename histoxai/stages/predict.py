"""predict: patches.zarr + cls/ -> preds.zarr, logits and predicted class of every patch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.networks.inference import predict_patches
from histoxai.networks.run_folder import Run
from histoxai.networks.weights import load_model
from histoxai.settings import Predict, Work
from histoxai.stages.base import InferenceStage
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item

PREDICTIONS, EMBEDDING = "predictions", "embedding"


def predict(
    source: Path, model: Path, output: Path, settings: Predict, progress: Progress, work: Work
) -> dict[str, Any]:
    """Classify every patch of a split, shard by shard; patches need no labels.

    source: patch store. model: run folder of a classifier. Raises InputRefused if the run folder holds no classifier
    or one for patches of another size, and SettingsDiffer if the output was made with other settings.
    """
    stage = _Predict(source, model, output, settings, progress, work)
    summary = stage.fill(partial(predict, source, model, output, settings))
    return {"schema": "histoxai.predict/1", "output": str(output), "patches": len(stage.rows), **summary}


class _Predict(InferenceStage):
    """Logits (n, classes) float32, predicted class (n,) int16 and its probability (n,) float32."""

    settings: Predict
    kind, schema, item_name = "classifier", "predictions/1", PREDICTIONS

    def __init__(
        self, source: Path, model: Path, output: Path, settings: Predict, progress: Progress, work: Work
    ) -> None:
        super().__init__(source, model, output, settings, progress, work)
        _check(self.patches, self.run, progress)
        self.attributes = {"classes": self.run.facts["classes"]}
        self.recorded["embeddings"] = settings.embeddings

    def index(self) -> dict[str, np.ndarray]:
        return {**super().index(), "label": self.patches.label[self.rows].astype(np.int16)}

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

    def infer(self, network: torch.nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
        return predict_patches(network, images, self.settings.micro_batch, self.device, self.settings.embeddings)


def _check(patches: Patches, run: Run, progress: Progress) -> None:
    if list(patches.size) != run.facts["size"]:
        h, w = run.facts["size"]
        raise InputRefused(
            f"{run.path}: was trained on patches of {w} x {h} px; {patches.path} has {patches.size[1]} x "
            f"{patches.size[0]}; ingest it with --size {h}, or train on patches of its size"
        )
    if run.notice:
        progress.warn(run.notice)
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
