"""Relatives among the patches of a store: what a split has to keep together, and what it did not."""

from __future__ import annotations

import numpy as np

from histoxai.errors import InputRefused
from histoxai.store.patches import Patches
from histoxai.store.schema import SPLITS
from histoxai.transforms.described import IDENTITY
from histoxai.transforms.relatives import Identity, Places, families, leaks, relations

LEVELS = ("group", "scan", "patient", "site")


SEEN = (("validation", "train"), ("test", "train"), ("test", "validation"))


def leaks_of(patches: Patches, near: int | None = None) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """For each pair of splits (held out, seen) the rows of the first with a relative in the second, by kind."""
    who = identity_of(patches)
    edges = relations(who, near)
    code = {name: SPLITS.index(name) for name in SPLITS}
    return {(a, b): leaks(who, edges, patches.split, code[a], code[b]) for a, b in SEEN}


def leaks_in_words(patches: Patches) -> list[str]:
    """One line for each pair of splits and kind of relative that a store has on both sides; none where none leaks."""
    return [
        f"{len(rows)} {held} patches ({share_of(patches, rows, held):.1%}) have relatives in {seen}: {WORDS[kind]}"
        for (held, seen), kinds in leaks_of(patches).items()
        for kind, rows in kinds.items()
        if kind != "any" and len(rows)
    ]


def share_of(patches: Patches, rows: np.ndarray, split: str) -> float:
    """What share of a split's patches these rows are; NaN of an empty one."""
    n = int((patches.split == SPLITS.index(split)).sum())
    return len(rows) / n if n else float("nan")


def identity_of(patches: Patches, level: str = "group") -> Identity:
    """All that a store knows of its patches' identity; the groups are those of a level.

    Raises InputRefused for a level that the store does not know.
    """
    hashes = patches.store.read("identity")
    columns = dict(zip(IDENTITY, hashes.T, strict=True))
    places = [column for k in ("frame", "x", "y", "extent") if (column := patches.column(k)) is not None]
    return Identity(
        group=groups_of(patches, level),
        parent=patches.column("parent"),
        content=np.column_stack([columns["content_high"], columns["content_low"]]),
        orbit=np.column_stack([columns["orbit_high"], columns["orbit_low"]]),
        perceptual=columns["perceptual"],
        places=Places(*places) if len(places) == 4 else None,
    )


def groups_of(patches: Patches, level: str) -> np.ndarray:
    """The group, scan, patient or site (n,) str of each patch; what has none is by itself.

    Raises InputRefused where the store knows none.
    """
    found = patches.column(level)
    if found is None or not (found != "").any():
        raise InputRefused(f"{patches.path}: knows no {level}; give it to `histoxai ingest` with --metadata")
    return np.where(found == "", np.char.add("\0", patches.patch_id), found)


def families_of(patches: Patches, level: str = "group", near: int | None = None) -> tuple[np.ndarray, list[str]]:
    """The family (n,) of each patch, and notes on what joined groups to families."""
    who = identity_of(patches, level)
    edges = relations(who, near)
    family = families(len(who), edges)
    notes = []
    for kind, pairs in edges.items():
        if kind == "rotated" and who.content is not None:  # exact duplicates are named by themselves
            pairs = pairs[(who.content[pairs[:, 0]] != who.content[pairs[:, 1]]).any(axis=1)]
        across = who.group[pairs[:, 0]] != who.group[pairs[:, 1]]
        if kind != "group" and across.any():
            patches_ = len(np.unique(pairs[across]))
            notes.append(
                f"{patches_} patches have relatives in other groups ({WORDS[kind]}): these groups stay together"
            )
    return family, notes


WORDS = {
    "group": "same group",
    "copy": "rotated copies of one patch",
    "duplicate": "exact duplicates",
    "rotated": "turned or mirrored copies",
    "overlap": "overlapping tiles",
    "near": "near duplicates",
}
