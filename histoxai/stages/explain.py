"""explain: balanced.zarr + cls/ -> maps.zarr, raw attributions of each method, their checks, and the predictions."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance, resources, slurm
from histoxai.core.errors import Damaged, HistoxaiError, SettingsDiffer
from histoxai.core.progress import Progress
from histoxai.explain.bases.single_pass import run_single_pass
from histoxai.explain.checks import summarise
from histoxai.explain.cost import PATCHES, Cost, measure
from histoxai.explain.inputs import Paths
from histoxai.explain.job import PREDICTIONS, Job
from histoxai.explain.maps_store import checks_path, raw_path
from histoxai.explain.parity import compare
from histoxai.settings import Explain, Work
from histoxai.store.create import create_or_match, match
from histoxai.store.jobs.runner import Stream, Task, do_items
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store


def explain(
    source: Path,
    model: Path,
    output: Path,
    settings: Explain,
    progress: Progress,
    work: Work,
    masks: Path | None = None,
) -> dict[str, Any]:
    """Explain the chosen patches with every method, shard by shard; methods can be added to a store later.

    Raises UsageError for an unknown method, option or target, InputRefused where classifier and patches do not
    belong together, SettingsDiffer where the output was made otherwise.
    """
    provenance.keep_apart(output, source, model, *([masks] if masks else []))
    there = output.exists()
    job = Job.of(Paths(source, model, output, masks), settings, progress, work)
    items = _items(job)
    header = _header(job, output)
    summary = {
        "schema": "histoxai.explain/1",
        "output": str(output),
        "patches": len(job.rows),
        "methods": list(job.explainers),
    }
    if work.only == "estimate":
        return summary | {"schema": "histoxai.estimate/1"} | _estimate(job, items, work, progress)
    if work.only == "parity":
        return summary | {"schema": "histoxai.parity/1"} | _parity(job, work.parity, progress)
    opened: list[Store] = []

    def make() -> Store:
        attrs = {"classes": job.patches.classes}
        opened.append(create_or_match(output, header, job.index(), items, attrs=attrs, force=work.force))
        job.missing = partial(_is_missing, opened[0], {item.name: item for item in items})
        return opened[0]

    task = Task(
        items,
        make,
        (lambda: match(output, header, items)) if output.exists() and not work.force else None,
        lambda: (
            {PREDICTIONS: Stream(job.predict)} | {n: Stream(partial(job.maps, n, opened[0])) for n in job.explainers}
        ),
        partial(explain, source, model, output, settings, masks=masks),
        job.facts,
    )
    try:
        summary |= do_items(task, progress, work)
    except SettingsDiffer:
        if there or work.force:
            raise
        # Another task made the store while this one chose; what that one found out about its machine stands.
        return explain(source, model, output, settings, progress, work, masks)
    if work.only is None and work.feed is None and work.shard is None:  # one task of many says nothing for all
        try:
            summary["checks"] = summarise(opened[0])
        except Damaged as damage:  # of what is no business of this run
            progress.warn(str(damage))
    return summary


def _is_missing(store: Store, items: dict[str, Item], name: str, start: int) -> bool:
    return bool(store.missing(items[name], [start // items[name].shard]))


def _items(job: Job) -> list[Item]:
    n, shard, classes = len(job.rows), job.settings.shard_size, len(job.patches.classes)
    predictions = (
        ArraySpec(f"{PREDICTIONS}/logits", (n, classes), np.float32, shard),
        ArraySpec(f"{PREDICTIONS}/prediction", (n,), np.int16, shard),
        ArraySpec(f"{PREDICTIONS}/probability", (n,), np.float32, shard),
        ArraySpec("targets", (n,), np.int16, shard, -1),
    )
    return [Item(PREDICTIONS, predictions), *[_item(job, name) for name in job.explainers]]


def _item(job: Job, name: str) -> Item:
    explainer, n, shard = job.explainers[name], len(job.rows), job.settings.shard_size
    specs = [
        ArraySpec(raw_path(name, part), (n, *spec.shape), spec.dtype, shard, spec.fill)
        for part, spec in explainer.raw_specs(job.net_of(name), job.patches.size).items()
    ]
    checks = job.checks(name)
    specs.append(ArraySpec(checks_path(name), (n, len(checks)), np.float32, shard, float("nan"), checks))
    return Item(name, tuple(specs), job.method_identity(name))


def _header(job: Job, output: Path) -> dict[str, Any]:
    settings = job.settings
    return provenance.header(
        "maps/1",
        {
            "split": settings.split,
            "per_class": settings.per_class,
            "target": settings.target,
            "micro_batch": settings.micro_batch,
            "device": job.net.device.type,
            "precision": settings.precision,
            "compile": settings.compile,
            "memory_format": "channels_last",
            "shard_size": settings.shard_size,
        },
        settings.seed,
        {
            "patches": provenance.parent(job.patches.path, output, job.patches.digest),
            "model": provenance.parent(job.run.path, output, job.run.digest),
        },
    )


# ---- looking before working


def complain(summary: dict[str, Any]) -> None:
    """Raise HistoxaiError where `--check-parity` found a method that is not its library's."""
    if wrong := [row["method"] for row in summary["rows"] if row["holds"] is False]:
        raise HistoxaiError(
            f"{', '.join(wrong)}: differs from its library by more than the contract allows (docs/format.md); please "
            "report it with this output and the versions that `histoxai info` shows"
        )


def _parity(job: Job, patches: int, progress: Progress) -> dict[str, Any]:
    """Explain a few patches, spread over all, with ours and with the libraries, and say how far apart they are."""
    at = np.unique(np.linspace(0, len(job.rows) - 1, min(patches, len(job.rows))).astype(int))
    targets = job.targets(at)
    progress.start("patches with the libraries", len(at) * len(job.explainers))
    rows: list[dict[str, Any]] = []
    for name, explainer in job.explainers.items():
        batch = job.batch(name, at, targets)
        with job.net_of(name).in_fp32() as net:
            found = compare(explainer, net, batch, lambda name=name: progress.advance(1, name))  # type: ignore[misc]
        row: dict[str, Any] = {"method": name, "patches": len(at)}
        row |= {"holds": None} if found is None else asdict(found)
        if job.settings.precision != "fp32":
            made = dict(explainer.explain(job.net_of(name), batch))
            ranks = [job.rank_to_fp32(name, int(p), int(targets[i]), made[i].raw) for i, p in enumerate(at)]
            row["rank_to_fp32"] = float(np.nanmedian(ranks)) if np.isfinite(ranks).any() else None
        rows.append(row)
    progress.stop()
    return {"rows": rows, "precision": job.settings.precision, "device": job.net.device.type}


def _estimate(job: Job, items: list[Item], work: Work, progress: Progress) -> dict[str, Any]:
    """Time a few patches of each method and say what all would take: hours, bytes, files, and a job to paste."""
    n, shards = len(job.rows), items[0].count
    targets = job.targets(np.arange(min(n, PATCHES)))
    progress.start("timing", len(job.explainers))
    costs: dict[str, Cost] = {}
    for item in items[1:]:

        def run(start: int, stop: int, name: str = item.name) -> Any:
            return job.explain(name, np.arange(start, stop), targets[start:stop])

        costs[item.name] = measure(run, item.specs, n)
        progress.advance(1, item.name)
    progress.stop()
    predictions = _cost_of_predictions(job)
    costs |= {name: replace(costs[name], seconds=s) for name, s in _shared(job, predictions.seconds).items()}
    # each shard of each array, its record, the arrays' metadata and the item's own
    files = {item.name: shards * (len(item.specs) + 1) + len(item.specs) + 1 for item in items}
    files[PREDICTIONS] += 2 * len(job.index()) + 4  # ids: array and metadata; a record, and the groups' metadata
    rows: list[dict[str, Any]] = [
        {
            "method": name,
            "seconds_per_patch": cost.seconds,
            "hours": cost.seconds * n / 3600,
            "gb": cost.bytes * n / 1e9,
            "files": files[name],
            "patches_timed": cost.patches,
        }
        for name, cost in {**costs, PREDICTIONS: predictions}.items()
    ]
    hours = sum(r["hours"] for r in rows)
    peak = resources.peak_memory_mb()
    block = slurm.array_block(
        provenance.run_facts()["command"], shards, hours, peak, max(1, work.threads), job.net.device.type == "cuda"
    )
    total = {k: sum(r[k] for r in rows) for k in ("hours", "gb", "files")}
    return {
        "shards": shards,
        "threads": work.threads,
        "device": job.net.device.type,
        "rows": rows,
        "total": total,
        "peak_memory_mb": peak,
        "sbatch": block,
    }


def _cost_of_predictions(job: Job) -> Cost:
    # of the item that every method rests on, with the ids that come with the store
    few = min(job.net.full_micro_batch, len(job.rows))
    started = time.perf_counter()
    made = [rows for _, rows in job.predict(0, few, np.zeros(few, bool))]
    seconds = (time.perf_counter() - started) / few
    size = sum(a.nbytes for rows in made for a in rows.values()) / few
    size += sum(a.nbytes for a in job.index().values()) / len(job.rows)
    return Cost(seconds, size, few)


def _shared(job: Job, predictions: float) -> dict[str, float]:
    # seconds a patch of the methods that share a pass: an equal part each of what it takes, predictions apart
    found: dict[str, float] = {}
    few = min(job.net.full_micro_batch, len(job.rows))
    for net in [job.net, *([job.untrained] if job.settings.random_weights else [])]:
        methods = job.sharing(net)
        if not methods:
            continue
        started = time.perf_counter()
        for _ in run_single_pass(net, methods, job.images(np.arange(few)), None):
            pass
        seconds = (time.perf_counter() - started) / few - (predictions if net is job.net else 0.0)
        found |= dict.fromkeys(methods, max(seconds, 0.0) / len(methods))
    return found
