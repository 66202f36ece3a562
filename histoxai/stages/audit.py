"""audit: what the splits of a patch store leak, what the study's rule would leak, and what a leak was worth."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import HistoxaiError, InputRefused, ParentChanged
from histoxai.networks.run_folder import open_run
from histoxai.settings import Augment, Statistics
from histoxai.split.leaks import across, identity_of, leaks_of, share_of
from histoxai.split.relations import Identity, Places, Relation, families, leaks, members, relations
from histoxai.split.split import TEST, TRAIN, Plan, plan_by_patch
from histoxai.statistics import bootstrap
from histoxai.statistics.numbers import or_none
from histoxai.store.patches import Patches
from histoxai.store.schema import SPLITS
from histoxai.store.shards import open_store
from histoxai.store.storage.s3_mirror import find_parent

SCHEMA = "histoxai.audit/1"


def audit(path: Path, near: int | None, run: Path | None, statistics: Statistics) -> dict[str, Any]:
    """Count relatives in a patch store and across its splits; with a run, its accuracy on leaked and clean patches.

    near: bits in which the perceptual hashes of near duplicates may differ; None: they are not looked for. Raises
    InputRefused where the run has no predictions, ParentChanged where it was trained on another store.
    """
    patches = Patches(path)
    who = identity_of(patches)
    related = relations(who, near)
    groups = families(len(who), {kind: related[kind] for kind in who.groups})
    found = leaks_of(patches, who, related)
    rows = [
        {
            "held_out": held,
            "seen_in": seen,
            "kind": kind,
            "patches": len(r),
            "share": or_none(share_of(patches, r, held)),
        }
        for (held, seen), kinds in found.items()
        for kind, r in kinds.items()
    ]
    return {
        "schema": SCHEMA,
        "path": str(path),
        "patches": len(patches),
        "groups": int(groups.max(initial=-1)) + 1,
        "families": int(families(len(who), related).max(initial=-1)) + 1,
        "splits": {name: int((patches.split == code).sum()) for code, name in enumerate(SPLITS)},
        "relatives": [_relatives(who, k, relation, groups) for k, relation in related.items() if k not in who.groups],
        "leaks": rows,
        "leaking": any(r["patches"] for r in rows),
        "study_rule": _study_rule(patches),
        "run": None if run is None else _worth(patches, run, found, statistics),
    }


def _relatives(who: Identity, kind: str, relation: Relation, groups: np.ndarray) -> dict[str, Any]:
    # patches that have a relative of this kind, in how many sets, and how many have one in another group
    rows = members(who, kind, relation)
    return {
        "kind": kind,
        "patches": int(rows.sum()),
        "sets": len(np.unique(families(len(who), {kind: relation})[rows])),
        "across_groups": int(across(who, kind, relation, groups).sum()),
    }


def _study_rule(patches: Patches) -> dict[str, Any]:
    """What the study's split over patches would leak of this data: test patches with a relative in training."""
    if patches.column("rotation") is not None:
        source = _source(patches)
        withheld = "these patches were split and rotated already; audit the store that ingest made"
        return {"withheld": withheld} if source is None else _study_rule(source)
    try:
        plan = plan_by_patch(patches.label, patches.classes, Augment.fractions, 0)
    except (InputRefused, ValueError):
        return {"withheld": "the rule needs patches of every class"}
    who = _copies(identity_of(patches), plan)
    found = leaks(who, relations(who), plan.split, TEST, TRAIN)
    test, label = plan.split == TEST, patches.label[plan.parent]

    def line(mine: np.ndarray) -> dict[str, Any]:
        n = int((test & mine).sum())
        kinds = {kind: int(mine[rows].sum()) for kind, rows in found.items()}
        return {"test": n, **kinds, "copy_share": kinds["copy"] / n if n else None}

    by_class = {name: line(label == code) for code, name in enumerate(patches.classes)}
    return {"withheld": None, **line(np.ones(len(label), bool)), "classes": by_class}


def _source(patches: Patches) -> Patches | None:
    # the store that was split, if it is still there
    named = patches.store.header["parents"]["patches"]
    try:
        source = Patches(find_parent(patches.path, named["path"]))
    except HistoxaiError:
        return None
    return source if source.digest == named["digest"] else None


def _copies(who: Identity, plan: Plan) -> Identity:
    # of every copy that a plan would make; pixels are equal where the patches' are and they are turned alike
    assert who.content is not None
    assert who.orbit is not None
    content = who.content[plan.parent]
    content[:, 1] ^= plan.rotation.astype(np.uint64)
    content[~who.content[plan.parent].any(axis=1)] = 0
    at = who.places
    places = None if at is None else Places(*(getattr(at, f.name)[plan.parent] for f in fields(Places)))
    groups = {kind: names[plan.parent] for kind, names in who.groups.items()}
    return Identity(groups, plan.parent, content, who.orbit[plan.parent], None, places)


def _worth(
    patches: Patches, run: Path, found: dict[tuple[str, str], dict[str, np.ndarray]], statistics: Statistics
) -> dict[str, Any]:
    trained = open_run(run, "classifier")
    if trained.facts["parents"]["patches"]["digest"] != patches.digest:
        raise ParentChanged(f"{run}: was trained on another store than {patches.path}; audit the one that it names")
    predictions = open_store(run / "predictions.zarr", "predictions", "train-cls")
    rows, split = predictions.read("row").astype(np.int64), predictions.header["settings"]["split"]
    right = (predictions.read("prediction") == predictions.read("label")).astype(np.float64)
    group = patches.group[rows]

    kinds = found[split, "train"]
    clean = ~np.isin(rows, kinds["any"])

    def contrast(leaked: np.ndarray) -> dict[str, Any]:
        how = (statistics.repetitions, statistics.seed, statistics.level)
        parts = {
            name: _estimate(bootstrap.means(right[which][:, None], group[which], *how)) if which.any() else None
            for name, which in (("leaked", leaked), ("clean", clean))
        }
        both = leaked.any() and clean.any()
        found = bootstrap.difference(right, group, leaked, clean, *how) if both else None
        return parts | {"difference": None if found is None else _estimate(found)}

    rated = [{"kind": kind, **contrast(np.isin(rows, found_))} for kind, found_ in kinds.items() if len(found_)]
    return {"path": str(run), "split": split, "patches": len(rows), "accuracy": float(right.mean()), "kinds": rated}


def _estimate(made: bootstrap.Estimate) -> dict[str, Any]:
    ends = {"low": or_none(float(made.low[0])), "high": or_none(float(made.high[0]))}
    counts = {"patches": int(made.n[0]), "groups": int(made.groups[0]), "withheld": made.withheld(0)}
    return {"accuracy": or_none(float(made.mean[0])), **ends, **counts}
