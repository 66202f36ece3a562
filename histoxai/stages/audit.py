"""audit: what the splits of a patch store leak, what the study's rule would leak, and what a leak was worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from histoxai.errors import InputRefused, ParentChanged
from histoxai.metrics import bootstrap
from histoxai.metrics.statistics import or_none
from histoxai.models.relatives import identity_of, leaks_of, share_of
from histoxai.models.runs import open_run
from histoxai.settings import Augment, Statistics
from histoxai.store.patches import Patches
from histoxai.store.schema import SPLITS
from histoxai.store.shards import open_store
from histoxai.store.split import TEST, TRAIN, plan_by_patch
from histoxai.transforms.relatives import Identity, families, leaks, relations

SCHEMA = "histoxai.audit/1"


def audit(path: Path, near: int | None, run: Path | None, statistics: Statistics) -> dict[str, Any]:
    """Count relatives in a patch store and across its splits; with a run, its accuracy on leaked and clean patches.

    near: bits in which the perceptual hashes of near duplicates may differ; None: they are not looked for. Raises
    InputRefused where the run has no predictions, ParentChanged where it was trained on another store.
    """
    patches = Patches(path)
    who = identity_of(patches)
    edges = relations(who, near)
    found = leaks_of(patches, near)
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
        "groups": len(np.unique(who.group)),
        "families": int(families(len(who), edges).max(initial=-1)) + 1,
        "splits": {name: int((patches.split == code).sum()) for code, name in enumerate(SPLITS)},
        "relatives": [_relatives(who, kind, pairs) for kind, pairs in edges.items() if kind != "group"],
        "leaks": rows,
        "leaking": any(r["patches"] for r in rows),
        "study_rule": _study_rule(patches),
        "run": None if run is None else _worth(patches, run, found, statistics),
    }


def _relatives(who: Identity, kind: str, pairs: np.ndarray) -> dict[str, Any]:
    # patches that have a relative of this kind, in how many sets, and how many sets reach over groups
    if kind == "rotated" and who.content is not None:
        different = (who.content[pairs[:, 0]] != who.content[pairs[:, 1]]).any(axis=1)
        pairs = pairs[different]
    across = who.group[pairs[:, 0]] != who.group[pairs[:, 1]]
    rows = np.unique(pairs)
    sets = families(len(who), {kind: pairs})[rows]
    return {
        "kind": kind,
        "patches": len(rows),
        "sets": len(np.unique(sets)),
        "across_groups": len(np.unique(pairs[across])),
    }


def _study_rule(patches: Patches) -> dict[str, Any]:
    """What the study's split over patches would leak of this data: test patches with a relative in training."""
    if patches.column("rotation") is not None:
        source = patches.store.header["parents"]["patches"]
        path = patches.path.parent / source["path"]
        if not path.exists() or Patches(path).digest != source["digest"]:
            return {"withheld": "these patches were split and rotated already; audit the store that ingest made"}
        return _study_rule(Patches(path))
    try:
        plan = plan_by_patch(patches.label, patches.classes, Augment.fractions, 0)
    except (InputRefused, ValueError):
        return {"withheld": "the rule needs patches of every class"}
    whole = identity_of(patches)
    who = Identity(whole.group[plan.parent], plan.parent)
    found = leaks(who, relations(who), plan.split, TEST, TRAIN)
    test, label = plan.split == TEST, patches.label[plan.parent]

    def line(mine: np.ndarray) -> dict[str, Any]:
        n = int((test & mine).sum())
        kinds = {kind: int(mine[found[kind]].sum()) for kind in ("copy", "group")}
        return {"test": n, **kinds, "copy_share": kinds["copy"] / n if n else None}

    by_class = {name: line(label == code) for code, name in enumerate(patches.classes)}
    return {"withheld": None, **line(np.ones(len(label), bool)), "classes": by_class}


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

    def contrast(leaked: np.ndarray) -> dict[str, Any]:
        how = (statistics.repetitions, statistics.seed, statistics.level)
        parts = {
            name: _estimate(bootstrap.means(right[which][:, None], group[which], *how)) if which.any() else None
            for name, which in (("leaked", leaked), ("clean", ~leaked))
        }
        both = leaked.any() and not leaked.all()
        return parts | {
            "difference": _estimate(bootstrap.difference(right, group, leaked, ~leaked, *how)) if both else None
        }

    kinds = found[split, "train"]
    rated = [{"kind": kind, **contrast(np.isin(rows, found_))} for kind, found_ in kinds.items() if len(found_)]
    return {"path": str(run), "split": split, "patches": len(rows), "accuracy": float(right.mean()), "kinds": rated}


def _estimate(made: bootstrap.Estimate) -> dict[str, Any]:
    ends = {"low": or_none(float(made.low[0])), "high": or_none(float(made.high[0]))}
    counts = {"patches": int(made.n[0]), "groups": int(made.groups[0]), "withheld": made.withheld(0)}
    return {"accuracy": or_none(float(made.mean[0])), **ends, **counts}
