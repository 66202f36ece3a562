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
from histoxai.core.registry import resolve
from histoxai.explain.maps_store import StoredMethod, used_items
from histoxai.score.coverage import coverage
from histoxai.score.export import check_table
from histoxai.score.measures.base import DEGENERATE
from histoxai.score.patch_scores import PatchScorer, score_axes, score_item
from histoxai.score.summary.scores import cancer_of, primary_of
from histoxai.score.summary.strata import cases
from histoxai.settings import Faithfulness, Score, Statistics, Work
from histoxai.store.create import create_or_match, match
from histoxai.store.jobs.runner import Stream, Task, do_items
from histoxai.store.schema import schema
from histoxai.store.shards import Store, open_store

if TYPE_CHECKING:
    from histoxai.score.faithfulness_runs import Probing

SCHEMA = "histoxai.score/1"


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
    axes = score_axes(methods)
    item = score_item(axes, len(rows), len(classes), height, settings.shard_size)
    header = provenance.header(
        schema("scores"),
        settings,
        None,
        {
            "maps": provenance.parent(maps_path, output, maps.digest(used_items(methods))),
            "masks": provenance.parent(masks_path, output, masks.digest()),
        },
        axes=axes,
        methods={
            m.name: {"method": m.method, "options": provenance.plain(m.explainer.options), "null": m.null}
            for m in methods
        },
        flags=DEGENERATE,
        target=maps.header["settings"]["target"],
        partial=found.partial,
    )
    scorer = PatchScorer(methods, settings)
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
            scorer.fill(mine, probability[i], {k: a[i] for k, a in made.items()})

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
    made = do_items(task, progress, work)
    return {"schema": "histoxai.scored/1", "output": str(output), "patches": len(rows), **made}


def _index(maps: Store, rows: np.ndarray, settings: Score) -> dict[str, np.ndarray]:
    kept = {k: maps.take(k, rows) for k in ("patch_id", "row", "label", "group")}
    kept |= {k: maps.take(f"predictions/{k}", rows) for k in ("prediction", "probability")}
    case = cases(kept["label"], kept["prediction"], kept["probability"], settings.sure)
    return kept | {"case": case.astype(np.uint8)}


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
    primary_of(statistics.primary, resolve("profile", profile).available(settings.measures != "all"), profile)
    cancer_of(statistics.cancer, [str(c) for c in open_store(maps, "maps", "explain").group.attrs["classes"]])
    for path in exports:
        check_table(path)
        provenance.keep_apart(output, path)
        if path.name.startswith("means") and not with_means:
            raise UsageError(f"--export {path}: means are not made with --jsonl")
