"""audit: leaks between the splits of a patch store, leaks of the study's rule, and their effect on a run's accuracy."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import HistoxaiError, InputRefused, ParentChanged
from histoxai.networks.run_folder import open_run
from histoxai.settings import Audit, Augment, Statistics
from histoxai.split.leaks import (
    find_leaks,
    group_components,
    has_relative_in_other_group,
    read_identity,
    share_of_split,
)
from histoxai.split.relations import (
    PatchIdentity,
    Relation,
    TilePositions,
    connected_components_of,
    has_relative,
    leaked_rows,
    relations,
)
from histoxai.split.split import TEST, TRAIN, SplitPlan, plan_by_patch
from histoxai.statistics import bootstrap
from histoxai.statistics.numbers import or_none
from histoxai.store.patches import Patches
from histoxai.store.schema import SPLITS
from histoxai.store.shards import open_store
from histoxai.store.storage.s3_mirror import locate_parent

SCHEMA = "histoxai.audit/1"

Leaks = dict[tuple[str, str], dict[str, np.ndarray]]  # (held out, seen) -> kind -> rows


def audit(path: Path, run: Path | None, settings: Audit, statistics: Statistics) -> dict[str, Any]:
    """Count related patches in a patch store and across its splits; for a run, compare leaked and clean accuracy.

    Raises InputRefused where the run has no predictions, ParentChanged where it was trained on another store.
    """
    patches = Patches(path)
    identity = read_identity(patches)
    related = relations(identity, settings.near)
    groups = group_components(identity, related)
    leaks = find_leaks(patches, identity, related)
    rows = _leak_rows(patches, leaks)
    return {
        "schema": SCHEMA,
        "path": str(path),
        "patches": len(patches),
        "groups": int(groups.max(initial=-1)) + 1,
        "families": int(connected_components_of(len(identity), related).max(initial=-1)) + 1,
        "splits": {name: int((patches.split == code).sum()) for code, name in enumerate(SPLITS)},
        "relatives": [
            _relation_counts(identity, kind, relation, groups)
            for kind, relation in related.items()
            if kind not in identity.groups
        ],
        "leaks": rows,
        "leaking": any(r["patches"] for r in rows),
        "study_rule": _study_rule(patches),
        "run": None if run is None else _accuracy_by_leak(patches, run, leaks, statistics),
    }


def _leak_rows(patches: Patches, leaks: Leaks) -> list[dict[str, Any]]:
    return [
        {
            "held_out": held_out,
            "seen_in": seen,
            "kind": kind,
            "patches": len(rows),
            "share": or_none(share_of_split(patches, rows, held_out)),
        }
        for (held_out, seen), kinds in leaks.items()
        for kind, rows in kinds.items()
    ]


def _relation_counts(identity: PatchIdentity, kind: str, relation: Relation, groups: np.ndarray) -> dict[str, Any]:
    """Count patches with a relative of a kind, the sets that they form, and those with a relative in another group."""
    rows = has_relative(identity, kind, relation)
    return {
        "kind": kind,
        "patches": int(rows.sum()),
        "sets": len(np.unique(connected_components_of(len(identity), {kind: relation})[rows])),
        "across_groups": int(has_relative_in_other_group(identity, kind, relation, groups).sum()),
    }


def _study_rule(patches: Patches) -> dict[str, Any]:
    """Count the test patches with a relative in training if this data were split by the study's rule."""
    if patches.column("rotation") is not None:
        source = _open_source(patches)
        withheld = "these patches were split and rotated already; audit the store that ingest made"
        return {"withheld": withheld} if source is None else _study_rule(source)
    try:
        plan = plan_by_patch(patches.label, patches.classes, Augment.fractions, 0)
    except (InputRefused, ValueError):
        return {"withheld": "the rule needs patches of every class"}
    identity = _identity_of_copies(read_identity(patches), plan)
    leaks = leaked_rows(identity, relations(identity), plan.split, TEST, TRAIN)
    test, label = plan.split == TEST, patches.label[plan.parent]

    def counts(selected: np.ndarray) -> dict[str, Any]:
        n = int((test & selected).sum())
        kinds = {kind: int(selected[rows].sum()) for kind, rows in leaks.items()}
        return {"test": n, **kinds, "copy_share": kinds["copy"] / n if n else None}

    by_class = {name: counts(label == code) for code, name in enumerate(patches.classes)}
    return {"withheld": None, **counts(np.ones(len(label), bool)), "classes": by_class}


def _open_source(patches: Patches) -> Patches | None:
    """Open the store that was split; None where it is gone or has changed."""
    parent = patches.store.header["parents"]["patches"]
    try:
        source = Patches(locate_parent(patches.path, parent["path"]))
    except HistoxaiError:
        return None
    return source if source.digest == parent["digest"] else None


def _identity_of_copies(identity: PatchIdentity, plan: SplitPlan) -> PatchIdentity:
    """Return the identity of the copies in a plan: pixels are equal where patches are equal and rotated alike."""
    assert identity.content is not None
    assert identity.orbit is not None
    content = identity.content[plan.parent]
    content[:, 1] ^= plan.rotation.astype(np.uint64)
    content[~identity.content[plan.parent].any(axis=1)] = 0
    tiles = identity.positions
    if tiles is not None:
        tiles = TilePositions(*(getattr(tiles, f.name)[plan.parent] for f in fields(TilePositions)))
    groups = {kind: names[plan.parent] for kind, names in identity.groups.items()}
    return PatchIdentity(groups, plan.parent, content, identity.orbit[plan.parent], None, tiles)


def _accuracy_by_leak(patches: Patches, run: Path, leaks: Leaks, statistics: Statistics) -> dict[str, Any]:
    """Compare a classifier's accuracy on held-out patches with a relative in training and on those without any."""
    folder = open_run(run, "classifier")
    if folder.facts["parents"]["patches"]["digest"] != patches.digest:
        raise ParentChanged(f"{run}: was trained on another store than {patches.path}; audit the one that it names")
    predictions = open_store(run / "predictions.zarr", "predictions", "train-cls")
    rows, split = predictions.read("row").astype(np.int64), predictions.header["settings"]["split"]
    correct = (predictions.read("prediction") == predictions.read("label")).astype(np.float64)
    kinds = leaks[split, "train"]
    clean = ~np.isin(rows, kinds["any"])
    by_kind = [
        {"kind": kind, **_contrast(correct, patches.group[rows], np.isin(rows, leaked), clean, statistics)}
        for kind, leaked in kinds.items()
        if len(leaked)
    ]
    accuracy = float(correct.mean())
    return {"path": str(run), "split": split, "patches": len(rows), "accuracy": accuracy, "kinds": by_kind}


def _contrast(
    correct: np.ndarray, group: np.ndarray, leaked: np.ndarray, clean: np.ndarray, statistics: Statistics
) -> dict[str, Any]:
    """Estimate the accuracy on leaked and on clean patches, and the difference, with cluster-bootstrap intervals."""
    how = statistics.bootstrap
    parts = {
        name: _estimate(bootstrap.means(correct[rows][:, None], group[rows], *how)) if rows.any() else None
        for name, rows in (("leaked", leaked), ("clean", clean))
    }
    has_both = leaked.any() and clean.any()
    difference = bootstrap.difference(correct, group, (leaked, clean), *how) if has_both else None
    return parts | {"difference": None if difference is None else _estimate(difference)}


def _estimate(estimate: bootstrap.Estimate) -> dict[str, Any]:
    return {
        "accuracy": or_none(float(estimate.mean[0])),
        "low": or_none(float(estimate.low[0])),
        "high": or_none(float(estimate.high[0])),
        "patches": int(estimate.n[0]),
        "groups": int(estimate.groups[0]),
        "withheld": estimate.withheld(0),
    }
