"""explain: balanced.zarr + cls/ -> maps.zarr, raw attributions of each method and the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from histoxai import provenance
from histoxai.errors import InputRefused, UsageError
from histoxai.explainers.base import Batch, Explainer, parse_options
from histoxai.explainers.stored import raw_path
from histoxai.models.batches import pick_device, predict, to_tensor
from histoxai.models.checkpoint import Run, load_model, open_run
from histoxai.progress import Progress
from histoxai.registry import resolve
from histoxai.settings import Explain
from histoxai.store.create import create_or_match, match
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store
from histoxai.store.work import do_items

PREDICTIONS = "predictions"
_RESERVED = (PREDICTIONS, "index", "masks")


def explain(
    source: Path,
    model: Path,
    output: Path,
    settings: Explain,
    progress: Progress,
    *,
    shard: str | None = None,
    force: bool = False,
    only: str | None = None,
    threads: int = 0,
) -> dict[str, Any]:
    """Explain the chosen patches with every method, shard by shard; methods can be added to a store later.

    only: "count" or "missing" to name shards, "check" to validate, None to work. Raises UsageError for an
    unknown method, option or target, InputRefused where classifier and patches do not belong together,
    SettingsDiffer where the output was made otherwise.
    """
    explainers = make_explainers(settings)
    provenance.keep_apart(output, source, model)
    patches = Patches(source)
    run = open_run(model, "classifier")
    _check(patches, run, progress)
    rows = patches.rows(settings.split, settings.per_class)
    target = _target(settings.target, patches, rows)
    device = pick_device(settings.device)
    network = load_model(run, device)
    items = [_prediction_item(len(rows), len(patches.classes), settings.shard_size)]
    items += [_item(name, e, settings, network, patches.size, len(rows)) for name, e in explainers.items()]
    header = _header(patches, run, output, settings, device)
    index = {
        "row": rows.astype(np.int32),
        "patch_id": patches.patch_id[rows],
        "label": patches.label[rows].astype(np.int16),
        "group": patches.group[rows],
    }
    opened: list[Store] = []

    def make() -> Store:
        opened.append(create_or_match(output, header, index, items, attrs={"classes": patches.classes}, force=force))
        return opened[0]

    def prepare() -> dict[str, Callable[[int, int], dict[str, np.ndarray]]]:
        def predictions(start: int, stop: int) -> dict[str, np.ndarray]:
            found = predict(network, patches.read(rows[start:stop]), settings.micro_batch, device)
            targets = found["prediction"] if target is None else target[start:stop].astype(np.int16)
            return {f"{PREDICTIONS}/{k}": v for k, v in found.items()} | {"targets": targets}

        def of(name: str, explainer: Explainer) -> Callable[[int, int], dict[str, np.ndarray]]:
            def maps(start: int, stop: int) -> dict[str, np.ndarray]:
                targets = torch.from_numpy(opened[0].read("targets", start, stop).astype(np.int64))
                ids = patches.patch_id[rows[start:stop]]
                seeds = [provenance.keyed_seed(settings.seed, name, i) for i in ids]
                images = to_tensor(patches.read(rows[start:stop])).to(device)
                raw = explainer.attribute(network, Batch(images, targets.to(device), seeds))
                return {raw_path(name, k): v for k, v in raw.items()}

            return maps

        return {PREDICTIONS: predictions} | {n: of(n, e) for n, e in explainers.items()}

    summary = do_items(
        make,
        (lambda: match(output, header, items)) if output.exists() else None,
        items,
        prepare,
        progress,
        shard=shard,
        only=only,
        facts={"threads": threads, "micro_batch": settings.micro_batch},
    )
    return {
        "schema": "histoxai.explain/1",
        "output": str(output),
        "patches": len(rows),
        "methods": list(explainers),
        **summary,
    }


def make_explainers(settings: Explain) -> dict[str, Explainer]:
    """Explainers by their names in the store, from `--method ig,ig300=ig -O ig300.steps=300`.

    Raises UsageError for an unknown method, an option of a method that is not asked for, and the like.
    """
    methods = {}
    for text in settings.methods:
        name, _, method = text.partition("=")
        if not name.isidentifier() or name in _RESERVED:
            raise UsageError(f"--method {text}: '{name}' cannot be a name; use letters, digits and _")
        if name in methods:
            raise UsageError(f"--method: the name '{name}' is given twice")
        methods[name] = method or name
    options: dict[str, dict[str, str]] = {name: {} for name in methods}
    for text in settings.options:
        left, equals, value = text.partition("=")
        name, dot, key = left.partition(".")
        if not equals or not dot:
            raise UsageError(f"-O {text}: expected NAME.OPTION=VALUE, such as ig.steps=300")
        if name not in options:
            raise UsageError(f"-O {text}: '{name}' is not among the methods {', '.join(methods)}")
        options[name][key] = value
    made = {}
    for name, method in methods.items():
        kind = resolve("explainer", method)
        made[name] = kind(parse_options(kind, options[name], name), settings.micro_batch)
    return made


def _check(patches: Patches, run: Run, progress: Progress) -> None:
    if patches.classes != run.facts["classes"]:
        raise InputRefused(
            f"{run.path}: was trained for the classes {', '.join(run.facts['classes'])}; {patches.path} has "
            f"{', '.join(patches.classes) or 'none'}"
        )
    if list(patches.size) != run.facts["size"]:
        h, w = run.facts["size"]
        raise InputRefused(
            f"{run.path}: was trained on patches of {w} x {h} px; {patches.path} has "
            f"{patches.size[1]} x {patches.size[0]}"
        )
    if run.facts["parents"]["patches"]["digest"] != patches.digest:
        progress.warn(
            f"{run.path} was trained on another patch store than {patches.path}: its test patches may have been "
            "trained on"
        )


def _target(target: str, patches: Patches, rows: np.ndarray) -> np.ndarray | None:
    # one class number per patch, or None for the predicted class
    if target == "predicted":
        return None
    if target == "label":
        return patches.label[rows]
    if target not in patches.classes:
        raise UsageError(f"--target {target}: expected predicted, label or one of {', '.join(patches.classes)}")
    return np.full(len(rows), patches.classes.index(target))


def _prediction_item(n: int, classes: int, shard: int) -> Item:
    return Item(
        PREDICTIONS,
        (
            ArraySpec(f"{PREDICTIONS}/logits", (n, classes), np.float32, shard),
            ArraySpec(f"{PREDICTIONS}/prediction", (n,), np.int16, shard),
            ArraySpec(f"{PREDICTIONS}/probability", (n,), np.float32, shard),
            ArraySpec("targets", (n,), np.int16, shard, -1),
        ),
    )


def _item(
    name: str, explainer: Explainer, settings: Explain, network: nn.Module, size: tuple[int, int], n: int
) -> Item:
    method = {m.partition("=")[0]: m.partition("=")[2] or m for m in settings.methods}[name]
    specs = tuple(
        ArraySpec(raw_path(name, part), (n, *spec.shape), spec.dtype, settings.shard_size, spec.fill)
        for part, spec in explainer.raw_specs(network, size).items()
    )
    return Item(name, specs, {"method": method, "options": asdict(explainer.options), "seed": settings.seed})


def _header(patches: Patches, run: Run, output: Path, settings: Explain, device: torch.device) -> dict[str, Any]:
    return provenance.header(
        "maps/1",
        {
            "split": settings.split,
            "per_class": settings.per_class,
            "target": settings.target,
            "micro_batch": settings.micro_batch,
            "device": device.type,
            "precision": "fp32",
            "memory_format": "channels_last",
            "shard_size": settings.shard_size,
        },
        settings.seed,
        {
            "patches": provenance.parent(patches.path, output, patches.digest),
            "model": provenance.parent(run.path, output, run.digest),
        },
    )
