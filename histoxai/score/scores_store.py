"""Read a scores store in one profile, and summarise it with intervals, chance and tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.progress import Progress
from histoxai.core.registry import resolve
from histoxai.score.export import write_table
from histoxai.score.patch_scores import TISSUE
from histoxai.score.profiles.base import ProfileScores, StoredScores
from histoxai.score.results import FaithfulnessSummary, ItemState, SanitySummary, ScoreSummary
from histoxai.score.summary import faithfulness, summarise
from histoxai.score.summary.scores import Method, Scores, apply_convention, measures_of, with_primary
from histoxai.settings import PROBES, SANITY, Statistics
from histoxai.store.shards import Store, open_store

SCHEMA = "histoxai.score/1"


def export(path: Path, profile: str, statistics: Statistics, table: Path, summary: ScoreSummary | None) -> None:
    """Write one table of a scores store: the means, if its name begins with "means", else one row per patch."""
    if summary is not None and table.name.startswith("means"):
        write_table(table, (dict(row) for row in summary["rows"]))
    else:
        write_table(table, (dict(row) for row in summarise.patch_rows(read(path, profile, statistics.empty))))


def profiles_of(header: dict[str, Any]) -> list[str]:
    """Return the profiles that a scores store has, by its header."""
    return [*header["axes"]["profile"], *header["axes"].get("profiles", {})]


class _Column:
    """Rows of an array of a store, read when they are asked for."""

    def __init__(self, store: Store, name: str, rows: np.ndarray | None) -> None:
        self._store, self._name = store, name
        self._rows = np.arange(store.array(name).shape[0]) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._store.take(self._name, self._rows[rows])


def read(path: Path, profile: str, empty: str = "exclude", rows: np.ndarray | None = None) -> Scores:
    """Read all that summaries need of a scores store; rows: of which patches, None for all.

    Raises UsageError for an unknown profile, InputRefused where the store was scored without it.
    """
    kind = resolve("profile", profile)
    store = open_store(path, "scores", "score")
    header = store.header

    def column(name: str) -> np.ndarray:
        return store.read(name) if rows is None else store.take(name, rows)

    scores: ProfileScores = kind.read(profile, StoredScores(path, header, column))
    known, flags = measures_of(profile), column("flags")
    measures = [known.get(name) for name in scores.names]
    has_curves = header["settings"]["measures"] == "all"
    return Scores(
        profile=profile,
        values=apply_convention(scores.values, flags, measures, empty),
        chance=scores.chance,
        flags=flags,
        counts=column("counts"),
        union=column("union"),
        curves=_Column(store, "curves", rows) if has_curves else None,
        mask_curves=_Column(store, "mask_curves", rows) if has_curves else None,
        logits=column("logits"),
        group=column("group"),
        patch_id=column("patch_id"),
        classes=[str(c) for c in store.group.attrs["classes"]],
        methods={name: Method(facts["method"], facts["null"]) for name, facts in header["methods"].items()},
        masks=header["axes"]["mask"],
        metrics=scores.names,
        partial=header.get("partial"),
        tissue=column(TISSUE) if store.has(TISSUE) else None,
        **{k: column(k).astype(np.int64) for k in ("label", "case", "prediction")},
    )


def summary(
    path: Path, profile: str, statistics: Statistics, progress: Progress, rows: np.ndarray | None = None
) -> ScoreSummary:
    """Return what `score --json` prints: means with intervals and chance, comparisons, and the conclusions tested.

    rows: of which patches, None for all. Raises UsageError for an unknown profile, primary measure or class.
    """
    return summary_of(path, read(path, profile, statistics.empty, rows), statistics, progress, rows)


def summary_of(
    path: Path, scores: Scores, statistics: Statistics, progress: Progress, rows: np.ndarray | None = None
) -> ScoreSummary:
    """Return `summary` of what `read` gave for these rows."""
    statistics = with_primary(scores, statistics)
    means = summarise.summarise(scores, statistics, progress.advance)
    runs = _StoredRuns.open(path, rows, progress)
    return {
        "schema": SCHEMA,
        **means,
        "faithfulness": runs.faithfulness(scores, statistics),
        "sanity": runs.sanity(scores, statistics),
    }


@dataclass(frozen=True)
class _StoredRuns:
    """Tests of maps on the model that a scores store holds, as far as they are done; rows: of which patches."""

    store: Store
    rows: np.ndarray | None
    states: dict[str, Any]

    @classmethod
    def open(cls, path: Path, rows: np.ndarray | None, progress: Progress) -> _StoredRuns:
        """Open a store, and warn of items that have gaps."""
        store = open_store(path, "scores", "score")
        states = {name: state for name, state in store.completeness().items() if name in (*PROBES, SANITY)}
        runs = cls(store, rows, states)
        for name, state in states.items():
            if state["missing"]:
                done = runs._about(name)["shards"]
                progress.warn(f"{path}: '{name}' has {done} of {state['shards']} shards; run its command again")
        return runs

    def faithfulness(self, scores: Scores, statistics: Statistics) -> FaithfulnessSummary | None:
        """Return means and curves of the faithfulness measures; None where there are none."""
        if not (probes := [p for p in PROBES if p in self.states]):
            return None
        values = np.stack([self._column(f"faithfulness/{p}") for p in probes], axis=-1)
        with_curves = self.store.arrays("curves_of")
        curves = {p: self._column(f"curves_of/{p}") for p in probes if f"curves_of/{p}" in with_curves}
        rows = faithfulness.faithfulness(scores, values, probes, statistics)
        drawn = faithfulness.mean_curves(scores, curves)
        return {"probes": {p: self._about(p) for p in probes}, "rows": rows, "curves": drawn}

    def sanity(self, scores: Scores, statistics: Statistics) -> SanitySummary | None:
        """Return the rows of the sanity check; None where it was not run."""
        if SANITY not in self.states:
            return None
        layers = self.states[SANITY]["what"]["layers"]
        rows = faithfulness.sanity(scores, self._column(f"{SANITY}/similarity"), layers, statistics)
        return {**self._about(SANITY), "rows": rows}

    def _about(self, name: str) -> ItemState:
        state = self.states[name]
        done = state["shards"] - len(state["missing"])
        return {"settings": state["what"], "shards": done, "of": state["shards"]}

    def _column(self, name: str) -> np.ndarray:
        return self.store.read(name) if self.rows is None else self.store.take(name, self.rows)


def patch_rows(path: Path, profile: str, empty: str = "exclude") -> Iterator[dict[str, Any]]:
    """Yield what `score --jsonl` prints: one row per patch, method, mask and metric, with the keys of `summary`."""
    for row in summarise.patch_rows(read(path, profile, empty)):
        yield {"schema": SCHEMA, **row}
