"""score: maps.zarr + masks.zarr -> scores.zarr, the six measures in both profiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import provenance, resources
from histoxai.explainers.coverage import coverage
from histoxai.explainers.stored import StoredMethod, used_items
from histoxai.metrics.counts import confusion_counts
from histoxai.metrics.localisation import threshold_histogram
from histoxai.metrics.profiles import METRICS, Mask, Profile
from histoxai.metrics.statistics import cases, mean_of, strata
from histoxai.progress import Progress
from histoxai.registry import names, resolve
from histoxai.settings import Score
from histoxai.store.create import create_or_match, match
from histoxai.store.schema import MASKS, ArraySpec
from histoxai.store.shards import Item, Store, open_store
from histoxai.store.work import fill

SCHEMA = "histoxai.score/1"


def score(
    maps_path: Path,
    masks_path: Path,
    output: Path,
    settings: Score,
    progress: Progress,
    *,
    force: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    allow_partial: bool = False,
) -> None:
    """Score every map of a store against both masks; both profiles are always computed and stored.

    Raises InputRefused where maps and masks are not of the same patches, Incomplete where one has gaps. With
    `allow_partial` those patches are scored that have every map and mask, and the store says so; a method that
    has not begun is left out.
    """
    provenance.keep_apart(output, maps_path, masks_path)
    maps = open_store(maps_path, "maps", "explain")
    masks = open_store(masks_path, "masks", "masks")
    found = coverage(maps, masks, allow_partial)
    for name in found.absent:
        progress.warn(f"{maps_path}: '{name}' has no finished shard and is left out")
    methods, rows, at = found.methods, found.rows, found.masks
    if found.partial:
        progress.warn(f"partial: {len(rows)} of {found.partial['of']} patches have all maps and masks")
    index = _index(maps, rows, settings)
    item = _item(len(rows), len(methods), settings.shard_size)
    header = provenance.header(
        "scores/1",
        settings,
        None,
        {
            "maps": provenance.parent(maps_path, output, maps.digest(used_items(methods))),
            "masks": provenance.parent(masks_path, output, masks.digest()),
        },
        axes={
            "method": [m.name for m in methods],
            "mask": list(MASKS),
            "profile": names("profile"),
            "metric": list(METRICS),
            "count": ["tp", "fp", "fn", "tn"],
        },
        methods={m.name: {"method": m.method, "options": provenance.plain(m.explainer.options)} for m in methods},
        target=maps.header["settings"]["target"],
        partial=found.partial,
    )
    if dry_run:
        if output.exists() and not force:
            match(output, header, [item])
        return
    store = create_or_match(output, header, index, [item], attrs={"classes": maps.group.attrs["classes"]}, force=force)
    profiles = [resolve("profile", n)(settings.map_threshold, settings.mask_threshold) for n in names("profile")]

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        raw = [m.take(maps, rows[start:stop]) for m in methods]
        probability = masks.take("probability", at[start:stop])
        made = _empty(item, stop - start)
        for i in range(stop - start):
            truth = [Mask.of(p.astype(np.float64), settings.mask_threshold) for p in probability[i]]
            for j, method in enumerate(methods):
                values, four, curves = _score_one(method, raw[j], i, truth, profiles)
                made["values"][i, j], made["counts"][i, j], made["curves"][i, j] = values, four, curves
        return made

    resources.keep_freed_memory()
    fill(store, item, compute, progress, verify=verify)


def summary(path: Path, profile: str) -> dict[str, Any]:
    """What `score --json` prints: means per method, mask, class, case and metric, with their n.

    Raises UsageError for an unknown profile.
    """
    store, values, axes = _read_scores(path, profile)
    classes = [str(c) for c in store.group.attrs["classes"]]
    label, case = store.read("label").astype(np.int64), store.read("case").astype(np.int64)
    chosen = list(strata(label, case, classes))
    rows = []
    for i, method in enumerate(axes["method"]):
        for j, mask in enumerate(axes["mask"]):
            for k, metric in enumerate(axes["metric"]):
                for name, number, mine in chosen:
                    key = {"method": method, "mask": mask, "class": name, "case": number, "metric": metric}
                    rows.append(key | mean_of(values[mine, i, j, k]))
    partial = store.header.get("partial")
    for row in rows:
        row["partial"] = partial is not None
    return {"schema": SCHEMA, "profile": profile, "patches": len(label), "partial": partial, "rows": rows}


def patch_rows(path: Path, profile: str) -> Iterator[dict[str, Any]]:
    """What `score --jsonl` prints: one row per patch, method, mask and metric, with the keys of `summary`."""
    store, values, axes = _read_scores(path, profile)
    classes = [str(c) for c in store.group.attrs["classes"]]
    label, case, ids = store.read("label"), store.read("case"), store.read("patch_id")
    for n, patch_id in enumerate(ids):
        for i, method in enumerate(axes["method"]):
            for j, mask in enumerate(axes["mask"]):
                for k, metric in enumerate(axes["metric"]):
                    value = float(values[n, i, j, k])
                    yield {
                        "schema": SCHEMA,
                        "profile": profile,
                        "patch_id": str(patch_id),
                        "method": method,
                        "mask": mask,
                        "class": classes[label[n]],
                        "case": str(case[n]),
                        "metric": metric,
                        "mean": value if np.isfinite(value) else None,
                        "n": int(np.isfinite(value)),
                        "undefined": int(not np.isfinite(value)),
                        "partial": store.header.get("partial") is not None,
                    }


def _read_scores(path: Path, profile: str) -> tuple[Store, np.ndarray, dict[str, list[str]]]:
    resolve("profile", profile)
    store = open_store(path, "scores", "score")
    axes = store.header["axes"]
    return store, store.read("values")[:, :, :, axes["profile"].index(profile)], axes


def _score_one(
    method: StoredMethod, raw: dict[str, np.ndarray], i: int, masks: list[Mask], profiles: list[Profile]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # values (mask, profile, metric); counts (mask, 4) and curves (mask, 2, 102) of the first profile, corrected
    height, width = masks[0].probability.shape
    planes = [method.plane(raw, i, (height, width), p.constant) for p in profiles]
    values = np.stack([p.score(plane, masks, method.method) for p, plane in zip(profiles, planes, strict=True)], axis=1)
    found = (planes[0] > profiles[0].map_threshold).ravel()
    four = np.stack([confusion_counts(found, m.binary.ravel()) for m in masks])
    return values, four, np.stack([threshold_histogram(planes[0], m.binary) for m in masks])


def _index(maps: Store, rows: np.ndarray, settings: Score) -> dict[str, np.ndarray]:
    kept = {k: maps.take(k, rows) for k in ("patch_id", "row", "label", "group")}
    kept |= {k: maps.take(f"predictions/{k}", rows) for k in ("prediction", "probability")}
    case = cases(kept["label"], kept["prediction"], kept["probability"], settings.sure)
    return kept | {"case": case.astype(np.uint8)}


def _item(n: int, methods: int, shard: int) -> Item:
    shapes = {
        "values": ((methods, len(MASKS), len(names("profile")), len(METRICS)), np.float64, float("nan")),
        "counts": ((methods, len(MASKS), 4), np.int64, 0),
        "curves": ((methods, len(MASKS), 2, 102), np.int32, 0),
    }
    return Item("scores", tuple(ArraySpec(k, (n, *s), t, shard, f) for k, (s, t, f) in shapes.items()))


def _empty(item: Item, n: int) -> dict[str, np.ndarray]:
    return {s.path: np.zeros((n, *s.shape[1:]), s.dtype) for s in item.specs}
