"""Related patches of a store: which ones a split has to keep together, and which ones it did not."""

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
SPLIT_PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))  # held out, seen


def read_identity(patches: Patches, level: str = "group") -> PatchIdentity:
    """Read what a store knows of the identity of its patches.

    level: group for scans and patients; site for these and sites; patient as group, but patients must be known; scan
    for scans alone. Raises InputRefused for a level that the store does not know.
    """
    columns = dict(zip(IDENTITY_COLUMNS, patches.store.read("identity").T, strict=True))
    return PatchIdentity(
        groups=_groups(patches, level),
        parent=patches.column("parent"),
        content=np.column_stack([columns["content_high"], columns["content_low"]]),
        orbit=np.column_stack([columns["orbit_high"], columns["orbit_low"]]),
        perceptual=columns["perceptual"],
        positions=_positions(patches),
    )


def require_column(patches: Patches, level: str) -> np.ndarray:
    """Return the scan, patient or site (n,) str of each patch, "" where unknown.

    Raises InputRefused where the store knows none.
    """
    names = patches.column(level)
    if names is None or not (names != "").any():
        raise InputRefused(f"{patches.path}: knows no {level}; give it to `histoxai ingest` with --metadata")
    return names


def _groups(patches: Patches, level: str) -> dict[str, np.ndarray]:
    scan, patient = require_column(patches, "scan"), patches.column("patient")
    if level == "scan" or patient is None:
        groups = {"scan": scan}
    else:
        groups = {"scan": _without_mixed_scans(scan, patient), "patient": patient}
    if level in ("patient", "site"):
        groups[level] = require_column(patches, level)
    return groups


def _without_mixed_scans(scan: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Blank scans with tissue of several patients, each patch's known (a tissue microarray): they relate nobody."""
    mixed = [
        name for name in np.unique(scan) if "" not in (names := set(patient[scan == name].tolist())) and len(names) > 1
    ]
    return np.where(np.isin(scan, mixed), "", scan) if mixed else scan


def _positions(patches: Patches) -> TilePositions | None:
    columns = [column for k in ("frame", "x", "y", "extent") if (column := patches.column(k)) is not None]
    if len(columns) < 4:
        return None
    frame, x, y, width = columns
    return TilePositions(frame, x, y, width, width * (patches.size[0] / patches.size[1]))


def find_components(patches: Patches, level: str = "group", near: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Return the connected component of related patches (n,) that each patch is in, and notes on what joined groups."""
    identity = read_identity(patches, level)
    related = relations(identity, near)
    groups = group_components(identity, related)
    notes = []
    for kind, relation in related.items():
        count = int(has_relative_in_other_group(identity, kind, relation, groups).sum())
        if kind not in identity.groups and count:
            notes.append(
                f"{count} patches have relatives in other groups ({KIND_LABELS[kind]}): these groups stay together"
            )
    return connected_components_of(len(identity), related), notes


def group_components(identity: PatchIdentity, related: Mapping[str, Relation]) -> np.ndarray:
    """Return the connected component (n,) of each patch by scans, patients and sites alone."""
    return connected_components_of(len(identity), {kind: related[kind] for kind in identity.groups})


def has_relative_in_other_group(
    identity: PatchIdentity, kind: str, relation: Relation, groups: np.ndarray
) -> np.ndarray:
    """Return the rows (n,) bool with a relative of a kind in another group (n,)."""
    everywhere = np.ones(len(identity), bool)
    return has_relative(identity, kind, relation) & has_relative_among(relation, groups, everywhere)


def find_leaks(
    patches: Patches, identity: PatchIdentity, related: Mapping[str, Relation]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Return for each pair of splits (held out, seen) the rows of the first with a relative in the second, by kind."""
    return {
        (held_out, seen): leaked_rows(identity, related, patches.split, SPLITS.index(held_out), SPLITS.index(seen))
        for held_out, seen in SPLIT_PAIRS
    }


def describe_leaks(patches: Patches) -> list[str]:
    """Return a sentence for each pair of splits and kind of relative that a store has on both sides."""
    identity = read_identity(patches)
    return [
        f"{len(rows)} {held_out} patches ({share_of_split(patches, rows, held_out):.1%}) have relatives in {seen}: "
        f"{KIND_LABELS[kind]}"
        for (held_out, seen), kinds in find_leaks(patches, identity, relations(identity)).items()
        for kind, rows in kinds.items()
        if kind != "any" and len(rows)
    ]


def share_of_split(patches: Patches, rows: np.ndarray, split: str) -> float:
    """Return the share of a split's patches that these rows are; NaN for an empty split."""
    n = int((patches.split == SPLITS.index(split)).sum())
    return len(rows) / n if n else float("nan")
