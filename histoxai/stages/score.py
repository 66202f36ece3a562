"""score: maps.zarr + masks.zarr -> scores.zarr, every measure of every map, and the chance of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core import provenance, resources
from histoxai.core.errors import UsageError
from histoxai.core.progress import Progress
from histoxai.core.registry import names, resolve
from histoxai.explain.maps_store import StoredMethod, used_items
from histoxai.score.coverage import coverage
from histoxai.score.export import check_table
from histoxai.score.measures.counts import COUNTS, confusion_counts
from histoxai.score.measures.localisation import levels, threshold_histogram
from histoxai.score.measures.measures import ALL, DEGENERATE, MEASURES, Target, counts_only, measure
from histoxai.score.profiles.profiles import METRICS, Mask, Profile, stretch
from histoxai.score.scores_store import metrics_of
from histoxai.score.summary.scores import cancer_of, primary_of
from histoxai.score.summary.strata import cases
from histoxai.settings import Faithfulness, Score, Statistics, Work
from histoxai.store.create import create_or_match, match
from histoxai.store.jobs.runner import Stream, Task, run_shards
from histoxai.store.schema import MASKS, ArraySpec, schema
from histoxai.store.shards import Item, Store, open_store

if TYPE_CHECKING:
    from histoxai.score.faithfulness_runs import Probing

SCHEMA = "histoxai.score/1"
PIECE = 16  # patches whose maps are in memory at once


@dataclass(frozen=True)
class Probe:
    """Maps are to be tested on their model: which one, and where its patches are, if not where they were."""

    settings: Faithfulness
    model: Path
    patches: Path | None = None

    def open(
        self, maps: Store, methods: list[StoredMethod], rows: np.ndarray, progress: Progress, work: Work
    ) -> Probing:
        """Raises ParentChanged where one of them is not the one that was explained."""
        from histoxai.score.faithfulness_runs import Probing  # torch, which scores alone do without

        return Probing.of(maps, methods, rows, self.model, self.patches, self.settings, progress, work)


def score(
    maps_path: Path,
    masks_path: Path,
    output: Path,
    settings: Score,
    progress: Progress,
    work: Work,
    allow_partial: bool = False,
    probe: Probe | None = None,
) -> dict[str, Any]:
    """Score every map of a store against both masks; both profiles are always computed and stored.

    probe: test the maps on the model too. allow_partial: score those patches that have every map and mask, which the
    store says; a method that has not begun is left out. Raises InputRefused where maps and masks are not of the same
    patches, Incomplete where one has gaps, ParentChanged where the model is not the one that was explained.
    """
    provenance.keep_apart(output, maps_path, masks_path)
    maps = open_store(maps_path, "maps", "explain")
    masks = open_store(masks_path, "masks", "masks")
    found = coverage(maps, masks, allow_partial)
    for name in found.absent:
        progress.warn(f"{maps_path}: '{name}' has no finished shard and is left out")
    methods, rows = found.methods, found.rows
    if found.partial:
        progress.warn(f"partial: {len(rows)} of {found.partial['of']} patches have all maps and masks")
    classes = maps.group.attrs["classes"]
    height = masks.array("probability").shape[-2]
    item = _item(len(rows), len(methods), len(classes), height, settings.shard_size)
    header = provenance.header(
        schema("scores"),
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
            "measure": list(MEASURES),
            "chance": list(ALL),
            "count": list(COUNTS),
        },
        methods={
            m.name: {"method": m.method, "options": provenance.plain(m.explainer.options), "null": m.null}
            for m in methods
        },
        flags=DEGENERATE,
        target=maps.header["settings"]["target"],
        partial=found.partial,
    )
    profiles = [resolve("profile", n)(settings.map_threshold, settings.mask_threshold) for n in names("profile")]
    probing = probe.open(maps, methods, rows, progress, work) if probe else None
    items = [item, *(probing.items(settings.shard_size) if probing else [])]
    facts: dict[str, Any] = {"threads": work.threads}
    if probing:
        probing.facts = facts

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        raw = [m.take(maps, rows[start:stop]) for m in methods]
        probability = masks.take("probability", found.masks[start:stop])
        made = {s.path: np.full((stop - start, *s.shape[1:]), s.fill, s.dtype) for s in item.specs}
        made["logits"][:] = maps.take("predictions/logits", rows[start:stop])

        def one(i: int) -> None:
            mine = [{part: array[i : i + 1] for part, array in arrays.items()} for arrays in raw]
            _score_patch(methods, mine, probability[i], profiles, settings, {k: a[i] for k, a in made.items()})

        with ThreadPoolExecutor(max(1, work.threads)) as pool:
            list(pool.map(one, range(stop - start)))
        return made

    def make() -> Store:
        index = _index(maps, rows, settings)
        return create_or_match(output, header, index, items, attrs={"classes": classes}, force=work.force)

    def prepare() -> dict[str, Any]:
        tests = probing.work() if probing else {}
        return {"scores": compute, **{name: Stream(rows) for name, rows in tests.items()}}

    task = Task(
        items,
        make,
        (lambda: match(output, header, items)) if output.exists() and not work.force else None,
        prepare,
        partial(score, maps_path, masks_path, output, settings, allow_partial=allow_partial, probe=probe),
        facts,
    )
    resources.keep_freed_memory()
    made = run_shards(task, progress, work)
    return {"schema": "histoxai.scored/1", "output": str(output), "patches": len(rows), **made}


def _score_patch(
    methods: list[StoredMethod],
    raw: list[dict[str, np.ndarray]],
    probability: np.ndarray,
    profiles: list[Profile],
    settings: Score,
    made: dict[str, np.ndarray],
) -> None:
    # fill one patch's rows of every array; the count arrays are of the first profile, corrected
    whole = settings.measures == "all"
    masks = [Mask.of(p.astype(np.float64), settings.mask_threshold, whole) for p in probability]
    targets = [Target.of(mask, settings.tolerance) for mask in masks]
    grey = [levels(mask.probability) for mask in masks] if whole else []
    size = masks[0].probability.shape
    truth, soft_truth = (
        np.stack(m) for m in zip(*((m.binary.ravel(), m.stretched.ravel()) for m in masks), strict=True)
    )
    truth = np.concatenate([truth, truth.any(axis=0, keepdims=True)])  # both masks together come last
    made["lines"][:] = np.count_nonzero([mask.binary for mask in masks], axis=-1)
    for j, method in enumerate(methods):
        planes = _planes(method, raw[j], size, profiles)
        plane = planes[0]
        found = plane > profiles[0].map_threshold
        cells = confusion_counts(found.ravel(), truth)
        counts = made["counts"][j] = cells[:-1]
        made["union"][j] = cells[-1]
        soft = (stretch(planes[-1]) >= settings.map_threshold).ravel()
        stretched = made["stretched"][j] = confusion_counts(soft, soft_truth)
        for k, profile in enumerate(profiles):
            made["values"][j, :, k] = profile.score(planes[k], masks, method.method, counts, stretched)
        if not whole:
            made["chance"][j, :, : len(METRICS)], made["flags"][j] = counts_only(plane, targets, counts)
            continue
        steps = levels(plane)
        made["curves"][j] = [threshold_histogram(steps, mask.binary) for mask in masks]
        made["mask_curves"][j] = [threshold_histogram(one, found) for one in grey]
        relevance = method.relevance(raw[j], 0, size, settings.sign)
        made["measures"][j], made["chance"][j], made["flags"][j] = measure(
            relevance, plane, counts, targets, settings.top_k
        )


def _planes(
    method: StoredMethod, raw: dict[str, np.ndarray], size: tuple[int, ...], profiles: list[Profile]
) -> list[np.ndarray]:
    # profiles differ where a channel is constant, which shows as NaN in the study's rendering
    height, width = size
    strict = method.plane(raw, 0, (height, width), float("nan"))
    if np.isfinite(strict).all():
        return [strict] * len(profiles)
    return [strict if np.isnan(p.constant) else method.plane(raw, 0, (height, width), p.constant) for p in profiles]


def _index(maps: Store, rows: np.ndarray, settings: Score) -> dict[str, np.ndarray]:
    kept = {k: maps.take(k, rows) for k in ("patch_id", "row", "label", "group")}
    kept |= {k: maps.take(f"predictions/{k}", rows) for k in ("prediction", "probability")}
    case = cases(kept["label"], kept["prediction"], kept["probability"], settings.sure)
    return kept | {"case": case.astype(np.uint8)}


def _item(n: int, methods: int, classes: int, height: int, shard: int) -> Item:
    pairs, nothing = (methods, len(MASKS)), float("nan")
    shapes: dict[str, tuple[tuple[int, ...], Any, Any]] = {
        "values": ((*pairs, len(names("profile")), len(METRICS)), np.float64, nothing),
        "measures": ((*pairs, len(MEASURES)), np.float64, nothing),
        "chance": ((*pairs, len(ALL)), np.float64, nothing),
        "flags": (pairs, np.uint8, 0),
        "counts": ((*pairs, len(COUNTS)), np.int64, 0),
        "stretched": ((*pairs, len(COUNTS)), np.int64, 0),
        "union": ((methods, len(COUNTS)), np.int64, 0),
        "curves": ((*pairs, 2, 102), np.int32, 0),
        "mask_curves": ((*pairs, 2, 102), np.int32, 0),
        "lines": ((len(MASKS), height), np.uint16, 0),
        "logits": ((classes,), np.float32, nothing),
    }
    return Item("scores", tuple(ArraySpec(k, (n, *s), t, shard, f) for k, (s, t, f) in shapes.items()), piece=PIECE)


# ---- what is printed of a store


def check(
    maps: Path,
    output: Path,
    settings: Score,
    profile: str,
    statistics: Statistics,
    exports: list[Path],
    with_means: bool,
) -> None:
    """Raise UsageError or InputRefused, before any work, for what cannot be summed up or exported.

    That is an unknown profile, primary measure or class, or a table that cannot be written.
    """
    resolve("profile", profile)
    primary_of(statistics.primary, metrics_of(profile, settings.measures), profile)
    cancer_of(statistics.cancer, [str(c) for c in open_store(maps, "maps", "explain").group.attrs["classes"]])
    for path in exports:
        check_table(path)
        provenance.keep_apart(output, path)
        if path.name.startswith("means") and not with_means:
            raise UsageError(f"--export {path}: means are not made with --jsonl")
