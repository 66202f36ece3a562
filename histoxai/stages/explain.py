"""explain: balanced.zarr + cls/ -> maps.zarr, raw attributions of each method and the predictions."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from histoxai import provenance, resources, slurm
from histoxai.errors import InputRefused, UsageError
from histoxai.explainers.base import Batch, Explainer, parse_options
from histoxai.explainers.cost import measure
from histoxai.explainers.stored import raw_path
from histoxai.models.batches import pick_device, predict, to_tensor
from histoxai.models.checkpoint import load_model
from histoxai.models.runs import Run, open_run
from histoxai.progress import Progress
from histoxai.registry import resolve
from histoxai.settings import Explain, Work
from histoxai.store.create import create_or_match, match
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store
from histoxai.store.work import Task, do_items

PREDICTIONS = "predictions"
_RESERVED = (PREDICTIONS, "index", "masks")


def explain(
    source: Path,
    model: Path,
    output: Path,
    settings: Explain,
    progress: Progress,
    work: Work,
) -> dict[str, Any]:
    """Explain the chosen patches with every method, shard by shard; methods can be added to a store later.

    Raises UsageError for an unknown method, option or target, InputRefused where classifier and patches do not
    belong together, SettingsDiffer where the output was made otherwise.
    """
    provenance.keep_apart(output, source, model)
    job = _Job.of(source, model, settings, progress)
    items = job.items()
    header = _header(job, output)
    summary = {
        "schema": "histoxai.explain/1",
        "output": str(output),
        "patches": len(job.rows),
        "methods": list(job.explainers),
    }
    if work.only == "estimate":
        return summary | {"schema": "histoxai.estimate/1"} | _estimate(job, items, work, progress)
    opened: list[Store] = []

    def make() -> Store:
        attrs = {"classes": job.patches.classes}
        opened.append(create_or_match(output, header, job.index(), items, attrs=attrs, force=work.force))
        return opened[0]

    task = Task(
        items,
        make,
        (lambda: match(output, header, items)) if output.exists() and not work.force else None,
        lambda: {PREDICTIONS: job.predict} | {n: partial(job.maps, n, opened[0]) for n in job.explainers},
        partial(explain, source, model, output, settings),
        {"threads": work.threads, "micro_batch": settings.micro_batch},
    )
    return summary | do_items(task, progress, work)


@dataclass
class _Job:
    """What is explained, with what: the inputs of a command, checked against each other."""

    settings: Explain
    patches: Patches
    run: Run
    rows: np.ndarray
    target: np.ndarray | None
    device: torch.device
    network: nn.Module
    explainers: dict[str, Explainer]

    @classmethod
    def of(cls, source: Path, model: Path, settings: Explain, progress: Progress) -> _Job:
        explainers = make_explainers(settings)
        patches = Patches(source)
        run = open_run(model, "classifier")
        _check(patches, run, progress)
        rows = patches.rows(settings.split, settings.per_class)
        target = _target(settings.target, patches, rows)
        device = pick_device(settings.device)
        return cls(settings, patches, run, rows, target, device, load_model(run, device), explainers)

    def items(self) -> list[Item]:
        n, settings = len(self.rows), self.settings
        made = [_prediction_item(n, len(self.patches.classes), settings)]
        return made + [_item(k, e, settings, self.network, self.patches.size, n) for k, e in self.explainers.items()]

    def index(self) -> dict[str, np.ndarray]:
        return {
            "row": self.rows.astype(np.int32),
            "patch_id": self.patches.patch_id[self.rows],
            "label": self.patches.label[self.rows].astype(np.int16),
            "group": self.patches.group[self.rows],
        }

    def predict(self, start: int, stop: int) -> dict[str, np.ndarray]:
        images = self.patches.read(self.rows[start:stop])
        found = predict(self.network, images, self.settings.micro_batch, self.device)
        targets = found["prediction"] if self.target is None else self.target[start:stop].astype(np.int16)
        return {f"{PREDICTIONS}/{k}": v for k, v in found.items()} | {"targets": targets}

    def batch(self, name: str, targets: np.ndarray, start: int, stop: int) -> Batch:
        rows = self.rows[start:stop]
        seeds = [provenance.keyed_seed(self.settings.seed, name, i) for i in self.patches.patch_id[rows]]
        images = to_tensor(self.patches.read(rows)).to(self.device)
        return Batch(images, torch.from_numpy(targets.astype(np.int64)).to(self.device), seeds)

    def maps(self, name: str, store: Store, start: int, stop: int) -> dict[str, np.ndarray]:
        return self.attribute(name, self.batch(name, store.read("targets", start, stop), start, stop))

    def attribute(self, name: str, batch: Batch) -> dict[str, np.ndarray]:
        raw = self.explainers[name].attribute(self.network, batch)
        return {raw_path(name, k): v for k, v in raw.items()}


def _estimate(job: _Job, items: list[Item], work: Work, progress: Progress) -> dict[str, Any]:
    """Time a few patches of each method and say what all would take: hours, bytes, files, and a job to paste."""
    n, shards = len(job.rows), items[0].count
    progress.start("timing", len(job.explainers))
    rows: list[dict[str, Any]] = []
    for item in items[1:]:

        def load(start: int, stop: int, name: str = item.name) -> Batch:
            return job.batch(name, job.predict(start, stop)["targets"], start, stop)

        piece = min(job.explainers[item.name].piece, n)
        cost = measure(load, partial(job.attribute, item.name), item.specs, piece, n)
        rows.append(
            {
                "method": item.name,
                "seconds_per_patch": cost.seconds,
                "hours": cost.seconds * n / 3600,
                "gb": cost.bytes * n / 1e9,
                # each shard of each array, its record, the arrays' metadata and the item's own
                "files": shards * (len(item.specs) + 1) + len(item.specs) + 1,
                "patches_timed": cost.patches,
            }
        )
        progress.advance(1, item.name)
    progress.stop()
    rows.append(_estimate_predictions(job, items[0]))
    hours = sum(r["hours"] for r in rows)
    peak = resources.peak_memory_mb()
    block = slurm.array_block(
        provenance.run_facts()["command"], shards, hours, peak, max(1, work.threads), job.device.type == "cuda"
    )
    total = {k: sum(r[k] for r in rows) for k in ("hours", "gb", "files")}
    return {
        "shards": shards,
        "threads": work.threads,
        "device": job.device.type,
        "rows": rows,
        "total": total,
        "peak_memory_mb": peak,
        "sbatch": block,
    }


def _estimate_predictions(job: _Job, item: Item) -> dict[str, Any]:
    # the item that every method rests on, with the ids that come with the store
    n, few = len(job.rows), min(job.settings.micro_batch, len(job.rows))
    started = time.perf_counter()
    made = job.predict(0, few)
    seconds = (time.perf_counter() - started) / few
    size = sum(a.nbytes for a in made.values()) / few + sum(a.nbytes for a in job.index().values()) / n
    ids = 2 * len(job.index()) + 4  # array and metadata of each; the record, the store's own and two groups' metadata
    return {
        "method": item.name,
        "seconds_per_patch": seconds,
        "hours": seconds * n / 3600,
        "gb": size * n / 1e9,
        "files": item.count * (len(item.specs) + 1) + len(item.specs) + 1 + ids,
        "patches_timed": few,
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


def _prediction_item(n: int, classes: int, settings: Explain) -> Item:
    shard = settings.shard_size
    specs = (
        ArraySpec(f"{PREDICTIONS}/logits", (n, classes), np.float32, shard),
        ArraySpec(f"{PREDICTIONS}/prediction", (n,), np.int16, shard),
        ArraySpec(f"{PREDICTIONS}/probability", (n,), np.float32, shard),
        ArraySpec("targets", (n,), np.int16, shard, -1),
    )
    return Item(PREDICTIONS, specs, piece=settings.micro_batch)


def _item(
    name: str, explainer: Explainer, settings: Explain, network: nn.Module, size: tuple[int, int], n: int
) -> Item:
    method = {m.partition("=")[0]: m.partition("=")[2] or m for m in settings.methods}[name]
    specs = tuple(
        ArraySpec(raw_path(name, part), (n, *spec.shape), spec.dtype, settings.shard_size, spec.fill)
        for part, spec in explainer.raw_specs(network, size).items()
    )
    what = {"method": method, "options": asdict(explainer.options), "seed": settings.seed}
    return Item(name, specs, what, explainer.piece)


def _header(job: _Job, output: Path) -> dict[str, Any]:
    settings = job.settings
    return provenance.header(
        "maps/1",
        {
            "split": settings.split,
            "per_class": settings.per_class,
            "target": settings.target,
            "micro_batch": settings.micro_batch,
            "device": job.device.type,
            "precision": "fp32",
            "memory_format": "channels_last",
            "shard_size": settings.shard_size,
        },
        settings.seed,
        {
            "patches": provenance.parent(job.patches.path, output, job.patches.digest),
            "model": provenance.parent(job.run.path, output, job.run.digest),
        },
    )
