"""score: maps.zarr + masks.zarr -> scores.zarr, the six measures in both profiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histoxai import provenance
from histoxai.errors import Incomplete, InputRefused
from histoxai.explainers.stored import StoredMethod, stored_methods, used_items
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
) -> None:
    """Score every map of a store against both masks; both profiles are always computed and stored.

    Raises InputRefused where maps and masks are not of the same patches, Incomplete where one has gaps.
    """
    provenance.keep_apart(output, maps_path, masks_path)
    maps = open_store(maps_path, "maps", "explain")
    masks = open_store(masks_path, "masks", "masks")
    maps.require_complete(sharded=True)
    masks.require_complete(sharded=True)
    methods = stored_methods(maps)
    at = _join(maps, masks)
    index = _index(maps, settings)
    item = _item(len(at), len(methods), settings.shard_size)
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
    )
    if dry_run:
        if output.exists() and not force:
            match(output, header, [item])
        return
    store = create_or_match(output, header, index, [item], attrs={"classes": maps.group.attrs["classes"]}, force=force)
    profiles = [resolve("profile", n)(settings.map_threshold, settings.mask_threshold) for n in names("profile")]

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        raw = [m.read(maps, start, stop) for m in methods]
        probability = _mask_rows(masks, at[start:stop])
        made = _empty(item, stop - start)
        for i in range(stop - start):
            truth = [Mask.of(p.astype(np.float64), settings.mask_threshold) for p in probability[i]]
            for j, method in enumerate(methods):
                values, four, curves = _score_one(method, raw[j], i, truth, profiles)
                made["values"][i, j], made["counts"][i, j], made["curves"][i, j] = values, four, curves
        return made

    fill(store, item, compute, progress)


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
    return {"schema": SCHEMA, "profile": profile, "patches": len(label), "rows": rows}


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


def _join(maps: Store, masks: Store) -> np.ndarray:
    # the row in `masks` of every map, joined on patch_id
    theirs, ours = maps.header["parents"]["patches"], masks.header["parents"]["patches"]
    if theirs["digest"] != ours["digest"]:
        raise InputRefused(
            f"{maps.path} and {masks.path} were made from different patch stores ({theirs['path']}, {ours['path']}; "
            "digests differ); run `histoxai masks` on the store that was explained"
        )
    place = {p: i for i, p in enumerate(masks.read("patch_id").tolist())}
    ids = maps.read("patch_id").tolist()
    if absent := [p for p in ids if p not in place]:
        split = maps.header["settings"]["split"]
        raise Incomplete(
            f"{masks.path}: has no mask of {len(absent)} of {len(ids)} explained patches, such as {absent[0]}; "
            f"run `histoxai masks --split {split}`"
        )
    return np.array([place[p] for p in ids])


def _mask_rows(masks: Store, at: np.ndarray) -> np.ndarray:
    first, last = int(at.min()), int(at.max())
    if last - first < 4 * len(at):  # near each other: one read of whole runs, then a pick
        return masks.read("probability", first, last + 1)[at - first]
    return np.concatenate([masks.read("probability", int(i), int(i) + 1) for i in at])


def _index(maps: Store, settings: Score) -> dict[str, np.ndarray]:
    label = maps.read("label")
    prediction, probability = maps.read("predictions/prediction"), maps.read("predictions/probability")
    return {
        "patch_id": maps.read("patch_id"),
        "row": maps.read("row"),
        "label": label,
        "group": maps.read("group"),
        "prediction": prediction,
        "probability": probability,
        "case": cases(label, prediction, probability, settings.sure).astype(np.uint8),
    }


def _item(n: int, methods: int, shard: int) -> Item:
    shapes = {
        "values": ((methods, len(MASKS), len(names("profile")), len(METRICS)), np.float64, float("nan")),
        "counts": ((methods, len(MASKS), 4), np.int64, 0),
        "curves": ((methods, len(MASKS), 2, 102), np.int32, 0),
    }
    return Item("scores", tuple(ArraySpec(k, (n, *s), t, shard, f) for k, (s, t, f) in shapes.items()))


def _empty(item: Item, n: int) -> dict[str, np.ndarray]:
    return {s.path: np.zeros((n, *s.shape[1:]), s.dtype) for s in item.specs}
