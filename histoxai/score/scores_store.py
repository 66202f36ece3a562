"""What a scores store says: its values in one profile, summed up with intervals, chance and tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.progress import Progress
from histoxai.core.registry import resolve
from histoxai.score.export import write_table
from histoxai.score.profiles.base import ProfileScores, StoredScores
from histoxai.score.summary import faithfulness
from histoxai.score.summary import summary as sums
from histoxai.score.summary.scores import Method, Scores, apply_convention, measures_of
from histoxai.settings import PROBES, SANITY, Statistics
from histoxai.store.shards import Store, open_store

SCHEMA = "histoxai.score/1"


def export(path: Path, profile: str, statistics: Statistics, table: Path, summary: dict[str, Any] | None) -> None:
    """Write one table beside a scores store: the means, where its name begins so, or one row per patch."""
    if summary is not None and table.name.startswith("means"):
        write_table(table, iter(summary["rows"]))
    else:
        write_table(table, sums.patches(read(path, profile, statistics.empty)))


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
        **{k: column(k).astype(np.int64) for k in ("label", "case", "prediction")},
    )


def summary(
    path: Path, profile: str, statistics: Statistics, progress: Progress, rows: np.ndarray | None = None
) -> dict[str, Any]:
    """What `score --json` prints: means with intervals and chance, comparisons, and the study's conclusions tested.

    rows: of which patches, None for all. Raises UsageError for an unknown profile, primary measure or class.
    """
    return summary_of(path, read(path, profile, statistics.empty, rows), statistics, progress, rows)


def summary_of(
    path: Path, scores: Scores, statistics: Statistics, progress: Progress, rows: np.ndarray | None = None
) -> dict[str, Any]:
    """`summary` of what `read` gave for these rows."""
    statistics = sums.settled(scores, statistics)
    made = sums.summarise(scores, statistics, progress.advance)
    return {"schema": SCHEMA, **made, **_probed(path, scores, statistics, progress, rows)}


def _probed(
    path: Path, scores: Scores, statistics: Statistics, progress: Progress, rows: np.ndarray | None
) -> dict[str, Any]:
    # what the tests on the model gave, as far as they are done
    store = open_store(path, "scores", "score")
    states = {name: state for name, state in store.completeness().items() if name in (*PROBES, SANITY)}
    finished = {name: state["shards"] - len(state["missing"]) for name, state in states.items()}
    for name, state in states.items():
        if state["missing"]:
            progress.warn(f"{path}: '{name}' has {finished[name]} of {state['shards']} shards; run its command again")
    found: dict[str, Any] = {"faithfulness": None, "sanity": None}

    def about(name: str) -> dict[str, Any]:
        return {"settings": states[name]["what"], "shards": finished[name], "of": states[name]["shards"]}

    def column(name: str) -> np.ndarray:
        return store.read(name) if rows is None else store.take(name, rows)

    if probes := [p for p in PROBES if p in states]:
        values = np.stack([column(f"faithfulness/{p}") for p in probes], axis=-1)
        curves = {p: column(f"curves_of/{p}") for p in probes if f"curves_of/{p}" in store.arrays("curves_of")}
        made = faithfulness.faithfulness(scores, values, probes, statistics)
        drawn = faithfulness.mean_curves(scores, curves)
        found["faithfulness"] = {"probes": {p: about(p) for p in probes}, "rows": made, "curves": drawn}
    if SANITY in states:
        layers = states[SANITY]["what"]["layers"]
        made = faithfulness.sanity(scores, column(f"{SANITY}/similarity"), layers, statistics)
        found["sanity"] = {**about(SANITY), "rows": made}
    return found


def patch_rows(path: Path, profile: str, empty: str = "exclude") -> Iterator[dict[str, Any]]:
    """What `score --jsonl` prints: one row per patch, method, mask and metric, with the keys of `summary`."""
    for row in sums.patches(read(path, profile, empty)):
        yield {"schema": SCHEMA, **row}
