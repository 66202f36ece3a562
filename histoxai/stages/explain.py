"""explain: balanced.zarr + cls/ -> maps.zarr, raw attributions of each method, their checks, and predictions."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance, resources, slurm
from histoxai.core.errors import Damaged, HistoxaiError, SettingsDiffer
from histoxai.core.progress import Progress
from histoxai.explain.bases.single_pass import run_single_pass
from histoxai.explain.checks import summarise
from histoxai.explain.cost import PATCHES, Cost, measure
from histoxai.explain.job import PREDICTIONS, ExplainInputs, Job
from histoxai.explain.maps_store import checks_path, raw_path
from histoxai.explain.parity import compare
from histoxai.settings import Explain, Work
from histoxai.stages.base import ShardedStage
from histoxai.store.jobs.runner import Producers, Stream
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store


def explain(
    inputs: ExplainInputs,
    output: Path,
    settings: Explain,
    progress: Progress,
    work: Work,
) -> dict[str, Any]:
    """Explain patches with every method, shard by shard; methods can be added to a store later.

    Raises UsageError for an unknown method, option or target, InputRefused if classifier and patches do not belong
    together, and SettingsDiffer if the output was made with other settings.
    """
    existed = output.exists()
    stage = _Explain(inputs, output, settings, progress, work)
    job = stage.job
    about = {"output": str(output), "patches": len(job.rows), "methods": list(job.explainers)}
    summary = {"schema": "histoxai.explain/1", **about}
    if work.only == "estimate":
        return summary | {"schema": "histoxai.estimate/1"} | _estimate(job, stage.items(), work, progress)
    if work.only == "parity":
        return summary | {"schema": "histoxai.parity/1"} | _parity(job, work.parity, progress)
    try:
        summary |= stage.fill(partial(explain, inputs, output, settings))
    except SettingsDiffer:
        if existed or work.force:
            raise
        # Meanwhile another task created the store. What that task found on its machine, such as the micro-batch, holds.
        return explain(inputs, output, settings, progress, work)
    if work.only is None and work.feed is None and work.shard is None:  # one task of many has not seen all shards
        try:
            summary["checks"] = summarise(Store(output))
        except Damaged as damage:  # of shards that this run did not touch
            progress.warn(str(damage))
    return summary


class _Explain(ShardedStage):
    """Predictions, raw attributions of each method, and the checks of each map."""

    def __init__(self, inputs: ExplainInputs, output: Path, settings: Explain, progress: Progress, work: Work) -> None:
        super().__init__(output, settings, progress, work)
        provenance.keep_apart(output, inputs.patches, inputs.model, *([inputs.masks] if inputs.masks else []))
        self.job = Job.of(inputs, output, settings, self.device, progress, work)
        self.facts = self.job.facts
        self.attributes = {"classes": self.job.patches.classes}

    def header(self) -> dict[str, Any]:
        job, settings = self.job, self.job.settings
        recorded = {
            "split": settings.split,
            "per_class": settings.per_class,
            "target": settings.target,
            "micro_batch": settings.micro_batch,
            "device": job.net.device.type,
            "precision": settings.precision,
            "compile": settings.compile,
            "memory_format": "channels_last",
            "shard_size": settings.shard_size,
        }
        parents = {
            "patches": provenance.parent(job.patches.path, self.output, job.patches.digest),
            "model": provenance.parent(job.run.path, self.output, job.run.digest),
        }
        return provenance.header("maps/1", recorded, settings.seed, parents)

    def index(self) -> dict[str, np.ndarray]:
        return self.job.index()

    def items(self) -> list[Item]:
        return self._items

    @cached_property
    def _items(self) -> list[Item]:
        n, shard, classes = len(self.job.rows), self.settings.shard_size, len(self.job.patches.classes)
        predictions = (
            ArraySpec(f"{PREDICTIONS}/logits", (n, classes), np.float32, shard),
            ArraySpec(f"{PREDICTIONS}/prediction", (n,), np.int16, shard),
            ArraySpec(f"{PREDICTIONS}/probability", (n,), np.float32, shard),
            ArraySpec("targets", (n,), np.int16, shard, -1),
        )
        return [
            Item(PREDICTIONS, predictions, read_back=True),
            *[_method_item(self.job, name) for name in self.job.explainers],
        ]

    def produce(self, store: Store) -> Producers:
        items = {item.name: item for item in self._items}
        # methods whose shard is missing share a pass through the network
        self.job.missing = lambda name, start: bool(store.missing(items[name], [start // items[name].shard]))
        maps = {name: Stream(partial(self.job.maps, name, store)) for name in self.job.explainers}
        return {PREDICTIONS: Stream(self.job.predict), **maps}


def _method_item(job: Job, name: str) -> Item:
    explainer, settings = job.explainers[name], job.settings
    n, shard = len(job.rows), settings.shard_size
    specs = [
        ArraySpec(raw_path(name, part), (n, *spec.shape), spec.dtype, shard, spec.fill)
        for part, spec in explainer.raw_specs(job.net_of(name), job.patches.size).items()
    ]
    checks = job.checks(name)
    specs.append(ArraySpec(checks_path(name), (n, len(checks)), np.float32, shard, float("nan"), checks))
    return Item(name, tuple(specs), job.method_identity(name))


# ---- before the work: --estimate and --check-parity


def raise_if_parity_fails(summary: dict[str, Any]) -> None:
    """Raise HistoxaiError if `--check-parity` found a method whose maps differ from its library's."""
    if wrong := [row["method"] for row in summary["rows"] if row["holds"] is False]:
        raise HistoxaiError(
            f"{', '.join(wrong)}: differs from its library by more than the contract allows (docs/format.md); please "
            "report it with this output and the versions that `histoxai info` shows"
        )


def _parity(job: Job, patches: int, progress: Progress) -> dict[str, Any]:
    """Explain a few patches, spread over all, with our methods and with the libraries, and compare the maps."""
    positions = np.unique(np.linspace(0, len(job.rows) - 1, min(patches, len(job.rows))).astype(int))
    targets = job.targets(positions)
    progress.start("patches with the libraries", len(positions) * len(job.explainers))
    rows = [_parity_row(job, name, positions, targets, progress) for name in job.explainers]
    progress.stop()
    return {"rows": rows, "precision": job.settings.precision, "device": job.net.device.type}


def _parity_row(job: Job, name: str, positions: np.ndarray, targets: np.ndarray, progress: Progress) -> dict[str, Any]:
    explainer, batch = job.explainers[name], job.batch(name, positions, targets)
    with job.net_of(name).in_fp32() as net:
        parity = compare(explainer, net, batch, lambda: progress.advance(1, name))
    row: dict[str, Any] = {"method": name, "patches": len(positions)}
    row |= {"holds": None} if parity is None else asdict(parity)
    if job.settings.precision != "fp32":
        maps = dict(explainer.explain(job.net_of(name), batch))
        ranks = [job.rank_to_fp32(name, int(p), int(targets[i]), maps[i].raw) for i, p in enumerate(positions)]
        row["rank_to_fp32"] = float(np.nanmedian(ranks)) if np.isfinite(ranks).any() else None
    return row


def _estimate(job: Job, items: list[Item], work: Work, progress: Progress) -> dict[str, Any]:
    """Time a few patches of each method; return what all would take: hours, bytes, files, and an sbatch script."""
    shards, is_gpu = items[0].count, job.net.device.type == "cuda"
    costs = _measured_costs(job, items[1:], progress)
    rows = _estimate_rows(job, costs, _number_of_files(job, items))
    total = {k: sum(r[k] for r in rows) for k in ("hours", "gb", "files")}
    peak = resources.peak_memory_mb()
    command = provenance.run_facts()["command"]
    script = slurm.array_block(command, shards, total["hours"], peak, max(1, work.threads), is_gpu)
    return {
        "shards": shards,
        "threads": work.threads,
        "device": job.net.device.type,
        "rows": rows,
        "total": total,
        "peak_memory_mb": peak,
        "sbatch": script,
    }


def _measured_costs(job: Job, items: list[Item], progress: Progress) -> dict[str, Cost]:
    # Cost per patch of each method, and of the predictions, which come last.
    n = len(job.rows)
    targets = job.targets(np.arange(min(n, PATCHES)))
    progress.start("timing", len(job.explainers))
    costs: dict[str, Cost] = {}
    for item in items:

        def run(start: int, stop: int, name: str = item.name) -> Any:
            return job.explain(name, np.arange(start, stop), targets[start:stop])

        costs[item.name] = measure(run, item.specs, n)
        progress.advance(1, item.name)
    progress.stop()
    predictions = _cost_of_predictions(job)
    shared = _shared_seconds(job, predictions.seconds)
    costs |= {name: replace(costs[name], seconds=seconds) for name, seconds in shared.items()}
    return {**costs, PREDICTIONS: predictions}


def _number_of_files(job: Job, items: list[Item]) -> dict[str, int]:
    # Each shard has a file per array and a record; each item its arrays' metadata and its facts.
    files = {item.name: item.count * (len(item.specs) + 1) + len(item.specs) + 1 for item in items}
    files[PREDICTIONS] += 2 * len(job.index()) + 4  # ids: array and metadata; a record, and the groups' metadata
    return files


def _estimate_rows(job: Job, costs: dict[str, Cost], files: dict[str, int]) -> list[dict[str, Any]]:
    n = len(job.rows)
    return [
        {
            "method": name,
            "seconds_per_patch": cost.seconds,
            "hours": cost.seconds * n / 3600,
            "gb": cost.bytes * n / 1e9,
            "files": files[name],
            "patches_timed": cost.patches,
        }
        for name, cost in costs.items()
    ]


def _cost_of_predictions(job: Job) -> Cost:
    # Every method needs the predictions; the ids that are written with the store are counted here too.
    few = min(job.net.full_micro_batch, len(job.rows))
    started = time.perf_counter()
    predicted = [rows for _, rows in job.predict(0, few, np.zeros(few, bool))]
    seconds = (time.perf_counter() - started) / few
    size = sum(a.nbytes for rows in predicted for a in rows.values()) / few
    size += sum(a.nbytes for a in job.index().values()) / len(job.rows)
    return Cost(seconds, size, few)


def _shared_seconds(job: Job, predictions: float) -> dict[str, float]:
    # Seconds per patch of the methods that share a pass: its time without the predictions, in equal parts.
    seconds_of: dict[str, float] = {}
    few = min(job.net.full_micro_batch, len(job.rows))
    for net in [job.net, *([job.untrained] if job.settings.random_weights else [])]:
        methods = job.sharing(net)
        if not methods:
            continue
        started = time.perf_counter()
        for _ in run_single_pass(net, methods, job.images(np.arange(few)), None):
            pass
        seconds = (time.perf_counter() - started) / few - (predictions if net is job.net else 0.0)
        seconds_of |= dict.fromkeys(methods, max(seconds, 0.0) / len(methods))
    return seconds_of
