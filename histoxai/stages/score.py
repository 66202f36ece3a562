"""score: maps.zarr + masks.zarr -> scores.zarr, every measure of every map, and its chance value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histoxai.core import provenance, resources
from histoxai.core.errors import Damaged, Incomplete, InputRefused, UsageError
from histoxai.core.progress import Progress
from histoxai.core.registry import resolve
from histoxai.explain.maps_store import used_items
from histoxai.ingest.quality import find_glass
from histoxai.score import scores_store
from histoxai.score.coverage import coverage
from histoxai.score.export import check_table
from histoxai.score.inputs import FaithfulnessInputs, ScoreInputs
from histoxai.score.measures.base import DEGENERATE
from histoxai.score.patch_scores import TISSUE, PatchScorer, ScoreSizes, score_axes, score_item
from histoxai.score.summary.scores import cancer_of, primary_of
from histoxai.score.summary.strata import cases
from histoxai.settings import Score, Statistics, Work
from histoxai.stages.base import ShardedStage
from histoxai.store.jobs.runner import Producers, Stream
from histoxai.store.parents import open_parent
from histoxai.store.patches import PATCHES_PARENT, Patches
from histoxai.store.schema import schema
from histoxai.store.shards import Item, Store, open_store

if TYPE_CHECKING:
    from histoxai.score.faithfulness_runs import FaithfulnessRuns


@dataclass(frozen=True)
class Summary:
    """How scores are summed up once all are there: profile, statistics, tables to write, and whether means are made."""

    profile: str
    statistics: Statistics
    exports: Sequence[Path] = ()
    with_means: bool = True

    def check(self, maps: Path, output: Path, settings: Score) -> None:
        """Raise UsageError or InputRefused, before any work, for what cannot be summed up or exported.

        That is an unknown profile, primary measure or class, or a table that cannot be written.
        """
        statistics = self.statistics
        resolve("profile", self.profile)
        available = resolve("profile", self.profile).available(settings.measures != "all")
        primary_of(statistics.primary, available, self.profile)
        cancer_of(statistics.cancer, [str(c) for c in open_store(maps, "maps", "explain").group.attrs["classes"]])
        for path in self.exports:
            check_table(path)
            provenance.keep_apart(output, path)
            if path.name.startswith("means") and not self.with_means:
                raise UsageError(f"--export {path}: means are not made with --jsonl")


def score(
    inputs: ScoreInputs,
    output: Path,
    settings: Score,
    summary: Summary,
    progress: Progress,
    work: Work,
) -> Mapping[str, Any]:
    """Score maps, then sum the scores up and export tables.

    Returns what `fill_scores` returns where only some shards were asked for or no means, else the summary that
    `--json` prints.
    """
    summary.check(inputs.maps, output, settings)
    result = fill_scores(inputs, output, settings, progress, work)
    if work.only is not None or work.shard is not None:
        return result
    means = None
    if summary.with_means:
        means = scores_store.summary(output, summary.profile, summary.statistics, progress)
    for table in summary.exports:
        scores_store.export(output, summary.profile, summary.statistics, table, means)
    return result if means is None else means


def fill_scores(inputs: ScoreInputs, output: Path, settings: Score, progress: Progress, work: Work) -> dict[str, Any]:
    """Score every map of a store against both masks, in all profiles, shard by shard.

    Raises InputRefused if maps and masks are of different patches, Incomplete if one has gaps, and ParentChanged if
    the model is not the one that was explained.
    """
    stage = _Scores(inputs, output, settings, progress, work)
    summary = stage.fill(partial(fill_scores, inputs, output, settings))
    return {"schema": "histoxai.scored/1", "output": str(output), "patches": len(stage.rows), **summary}


class _Scores(ShardedStage):
    """Values, chance values, counts and curves of each map and mask; and the tests on the model, an item each."""

    settings: Score

    def __init__(self, inputs: ScoreInputs, output: Path, settings: Score, progress: Progress, work: Work) -> None:
        super().__init__(output, settings, progress, work)
        provenance.keep_apart(output, inputs.maps, inputs.masks)
        self.inputs = inputs
        self.maps = open_store(inputs.maps, "maps", "explain")
        self.masks = open_store(inputs.masks, "masks", "masks")
        self.coverage = coverage(self.maps, self.masks, inputs.allow_partial)
        self.methods, self.rows = self.coverage.methods, self.coverage.rows
        self._warn_of_gaps()
        self.classes = self.maps.group.attrs["classes"]
        self.attributes = {"classes": self.classes}
        self.axes = score_axes(self.methods)
        height = self.masks.array("probability").shape[-2]
        sizes = ScoreSizes(len(self.rows), len(self.classes), height, settings.shard_size)
        self.with_tissue = self._wants_tissue()
        self.scores = score_item(self.axes, sizes, self.with_tissue)
        self.faithfulness = self._faithfulness_runs(inputs.faithfulness) if inputs.faithfulness else None
        resources.keep_freed_memory()

    def _warn_of_gaps(self) -> None:
        for name in self.coverage.absent:
            self.progress.warn(f"{self.inputs.maps}: '{name}' has no finished shard and is left out")
        if partial := self.coverage.partial:
            self.progress.warn(f"partial: {len(self.rows)} of {partial['of']} patches have all maps and masks")

    def _wants_tissue(self) -> bool:
        # a store that is there stays as it was begun; a new one counts tissue where the patches are at hand
        if self.output.exists() and not self.work.force:
            with suppress(InputRefused):  # an empty folder, or what `fill` will refuse
                return open_store(self.output, "scores", "score").has(TISSUE)
        try:
            return self.patches is not None
        except (InputRefused, Incomplete, Damaged) as error:
            # the store must not depend on whether a read failed for a moment
            of_system = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
            if self.inputs.patches is not None or of_system:
                raise
            self.progress.say(f"whether maps mark tissue is not measured ({error})")
            return False

    @cached_property
    def patches(self) -> Patches:
        """The explained patches.

        Raises ParentChanged where they are gone or are not those that were explained.
        """
        return open_parent(PATCHES_PARENT, self.maps.path, self.maps.header, self.inputs.patches)

    @property
    def network_settings(self) -> Any:
        return self.inputs.faithfulness.settings if self.inputs.faithfulness else None

    def _faithfulness_runs(self, inputs: FaithfulnessInputs) -> FaithfulnessRuns:
        from histoxai.score.faithfulness_runs import FaithfulnessRuns  # torch, which scores alone do without

        return FaithfulnessRuns.of(inputs, self.maps, self.coverage, self.device, self.progress, self.facts)

    def header(self) -> dict[str, Any]:
        maps, masks = self.maps.digest(used_items(self.methods)), self.masks.digest()
        return provenance.header(
            schema("scores"),
            self.settings,
            None,
            {
                "maps": provenance.parent(self.inputs.maps, self.output, maps),
                "masks": provenance.parent(self.inputs.masks, self.output, masks),
            },
            axes=self.axes,
            methods={
                m.name: {"method": m.method, "options": provenance.plain(m.explainer.options), "null": m.null}
                for m in self.methods
            },
            flags=DEGENERATE,
            target=self.maps.header["settings"]["target"],
            partial=self.coverage.partial,
        )

    def index(self) -> dict[str, np.ndarray]:
        columns = {k: self.maps.take(k, self.rows) for k in ("patch_id", "row", "label", "group")}
        columns |= {k: self.maps.take(f"predictions/{k}", self.rows) for k in ("prediction", "probability")}
        case = cases(columns["label"], columns["prediction"], columns["probability"], self.settings.sure)
        return columns | {"case": case.astype(np.uint8)}

    def items(self) -> list[Item]:
        return [self.scores, *(self.faithfulness.items(self.settings.shard_size) if self.faithfulness else [])]

    def produce(self, store: Store) -> Producers:
        tests = self.faithfulness.work() if self.faithfulness else {}
        return {"scores": self._compute, **{name: Stream(rows) for name, rows in tests.items()}}

    def _compute(self, start: int, stop: int) -> dict[str, np.ndarray]:
        rows = self.rows[start:stop]
        scorer = PatchScorer(self.methods, self.settings)
        raw = [m.take(self.maps, rows) for m in self.methods]
        probability = self.masks.take("probability", self.coverage.masks[start:stop])
        out = {s.path: np.full((stop - start, *s.shape[1:]), s.fill, s.dtype) for s in self.scores.specs}
        out["logits"][:] = self.maps.take("predictions/logits", rows)
        images = self.patches.read(self.maps.take("row", rows)) if self.with_tissue else None

        def score_patch(i: int) -> None:
            of_patch = [{part: array[i : i + 1] for part, array in arrays.items()} for arrays in raw]
            tissue = None if images is None else ~find_glass(images[i])
            scorer.fill(of_patch, probability[i], {path: array[i] for path, array in out.items()}, tissue)

        with ThreadPoolExecutor(max(1, self.work.threads)) as pool:
            list(pool.map(score_patch, range(stop - start)))
        return out
