"""Relatives among the patches of a store: what a split has to keep together, and what it did not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.ingest.descriptors import IDENTITY_COLUMNS
from histoxai.split.relations import (
    PatchIdentity,
    Relation,
    TilePositions,
    connected_components_of,
    has_relative,
    has_relative_among,
    leaked_rows,
    relations,
)
from histoxai.store.patches import Patches
from histoxai.store.schema import SPLITS

KIND_LABELS = {
    "scan": "same scan",
    "patient": "same patient",
    "site": "same site",
    "copy": "rotated copies of one patch",
    "duplicate": "exact duplicates",
    "rotated": "turned or mirrored copies",
    "overlap": "overlapping tiles",
    "near": "near duplicates",
}
SPLIT_PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))


def read_identity(patches: Patches, level: str = "group") -> PatchIdentity:
    """All that a store knows of its patches' identity.

    level: group for scans and patients, site for these and sites, patient the same as group where patients are known,
    scan for scans alone. Raises InputRefused for a level that the store does not know.
    """
    columns = dict(zip(IDENTITY_COLUMNS, patches.store.read("identity").T, strict=True))
    return PatchIdentity(
        groups=_groups(patches, level),
        parent=patches.column("parent"),
        content=np.column_stack([columns["content_high"], columns["content_low"]]),
        orbit=np.column_stack([columns["orbit_high"], columns["orbit_low"]]),
        perceptual=columns["perceptual"],
        places=_places(patches),
    )


def require_column(patches: Patches, level: str) -> np.ndarray:
    """The scan, patient or site (n,) str of each patch, "" where unknown.

    Raises InputRefused where the store knows none.
    """
    found = patches.column(level)
    if found is None or not (found != "").any():
        raise InputRefused(f"{patches.path}: knows no {level}; give it to `histoxai ingest` with --metadata")
    return found


def _groups(patches: Patches, level: str) -> dict[str, np.ndarray]:
    scan, patient = require_column(patches, "scan"), patches.column("patient")
    if level == "scan" or patient is None:
        made = {"scan": scan}
    else:
        made = {"scan": _one_patient(scan, patient), "patient": patient}
    if level in ("patient", "site"):
        made[level] = require_column(patches, level)
    return made


def _one_patient(scan: np.ndarray, patient: np.ndarray) -> np.ndarray:
    # a scan with tissue of several patients (an array of cores), each patch's known, relates nobody by itself
    apart = [name for name in np.unique(scan) if "" not in (of := set(patient[scan == name].tolist())) and len(of) > 1]
    return np.where(np.isin(scan, apart), "", scan) if apart else scan


def _places(patches: Patches) -> TilePositions | None:
    columns = [column for k in ("frame", "x", "y", "extent") if (column := patches.column(k)) is not None]
    if len(columns) < 4:
        return None
    frame, x, y, width = columns
    return TilePositions(frame, x, y, width, width * (patches.size[0] / patches.size[1]))


def find_components(patches: Patches, level: str = "group", near: int | None = None) -> tuple[np.ndarray, list[str]]:
    """The family (n,) of each patch, and notes on what joined groups to families."""
    who = read_identity(patches, level)
    related = relations(who, near)
    groups = connected_components_of(len(who), {kind: related[kind] for kind in who.groups})
    notes = []
    for kind, relation in related.items():
        many = int(has_relative_in_other_group(who, kind, relation, groups).sum())
        if kind not in who.groups and many:
            notes.append(
                f"{many} patches have relatives in other groups ({KIND_LABELS[kind]}): these groups stay together"
            )
    return connected_components_of(len(who), related), notes


def has_relative_in_other_group(who: PatchIdentity, kind: str, relation: Relation, groups: np.ndarray) -> np.ndarray:
    """Rows (n,) bool with a relative of a kind in another group (n,)."""
    return has_relative(who, kind, relation) & has_relative_among(relation, groups, np.ones(len(who), bool))


def find_leaks(
    patches: Patches, who: PatchIdentity, related: Mapping[str, Relation]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """For each pair of splits (held out, seen) the rows of the first with a relative in the second, by kind."""
    code = {name: SPLITS.index(name) for name in SPLITS}
    return {(a, b): leaked_rows(who, related, patches.split, code[a], code[b]) for a, b in SPLIT_PAIRS}


def describe_leaks(patches: Patches) -> list[str]:
    """One line for each pair of splits and kind of relative that a store has on both sides; none where none leaks."""
    who = read_identity(patches)
    return [
        f"{len(rows)} {held} patches ({share_of_split(patches, rows, held):.1%}) have relatives in {seen}: {KIND_LABELS[kind]}"
        for (held, seen), kinds in find_leaks(patches, who, relations(who)).items()
        for kind, rows in kinds.items()
        if kind != "any" and len(rows)
    ]


def share_of_split(patches: Patches, rows: np.ndarray, split: str) -> float:
    """What share of a split's patches these rows are; NaN of an empty one."""
    n = int((patches.split == SPLITS.index(split)).sum())
    return len(rows) / n if n else float("nan")
