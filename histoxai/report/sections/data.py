"""Build the section on the data: class counts, leakage between splits, and notes on the split."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import ReportInputs, Section
from histoxai.split.leaks import KIND_LABELS, find_leaks, read_identity, share_of_split
from histoxai.split.relations import relations
from histoxai.store.patches import Patches

_SPLITS = {1: "train", 2: "validation", 3: "test"}


class ClassCounts(TypedDict):
    """The study's table 1: heads of the columns of counts; rows of a class name and its counts."""

    columns: list[str]
    rows: list[list[Any]]


class LeakRow(TypedDict):
    """Patches of a held-out split with relatives in a split seen before, by the kind of relation."""

    held_out: str
    seen_in: str
    words: str
    patches: int
    share: float


class Leakage(TypedDict):
    """Leaks between splits; `words` stands in place of a table without rows."""

    rows: list[LeakRow]
    words: str


class DataContent(TypedDict):
    """Values of the template `sections/data.html`."""

    table1: ClassCounts
    leakage: Leakage
    notes: list[str]


def build(inputs: ReportInputs) -> Section:
    """Build the section and the counts of its table."""
    patches = inputs.lineage.patches
    counts = count_classes(patches)
    content: DataContent = {
        "table1": counts,
        "leakage": find_leakage(patches),
        "notes": notes_on_split(inputs.lineage),
    }
    arrays = {"table1_class": np.array([row[0] for row in counts["rows"]])}
    for k, name in enumerate(counts["columns"], start=1):
        arrays[f"table1_{name.replace(' ', '_')}"] = np.array([row[k] for row in counts["rows"]])
    return Section(content, arrays)


def count_classes(patches: Patches) -> ClassCounts:
    """Return the study's table 1: recorded by `augment`, or counted in a store that was not augmented."""
    if table := patches.store.header.get("table"):
        keys = {"patches": "patches", "after rotation": "rotated", **{s: s for s in _SPLITS.values()}}
        return {"columns": list(keys), "rows": [[r["class"], *[r[k] for k in keys.values()]] for r in table]}
    rows = []
    for code, name in enumerate(patches.classes):
        splits = patches.split[patches.label == code]
        rows.append([name, len(splits), *[int((splits == k).sum()) for k in _SPLITS]])
    return {"columns": ["patches", *_SPLITS.values()], "rows": rows}


def find_leakage(patches: Patches) -> Leakage:
    """Find patches of one split with relatives in another, as rows by kind of relation."""
    used = np.unique(patches.split[patches.split > 0])
    if len(used) < 2:
        return {"rows": [], "words": "This store has no two splits between which anything could leak."}
    try:
        identity = read_identity(patches)
    except InputRefused as error:
        return {"rows": [], "words": f"Whether splits share relatives is not known ({error})."}
    rows: list[LeakRow] = [
        {
            "held_out": held_out,
            "seen_in": seen_in,
            "words": KIND_LABELS.get(kind, "any of these"),
            "patches": len(leaking),
            "share": share_of_split(patches, leaking, held_out),
        }
        for (held_out, seen_in), kinds in find_leaks(patches, identity, relations(identity)).items()
        for kind, leaking in kinds.items()
        if len(leaking)
    ]
    return {
        "rows": rows,
        "words": "No patch of one split has a relative in another: not by patient or scan, not as a copy, turned or "
        "not, not as an overlapping tile.",
    }


def notes_on_split(lineage: Lineage) -> list[str]:
    """Return what a reader must know of the split before believing an accuracy."""
    notes = []
    if lineage.patches.store.header["settings"].get("split_by") == "patch":
        notes.append(
            "This store was split by patch, the study's rule: rotated copies of one patch can be in training and in "
            "test at once, so the accuracy below is too good."
        )
    if leaks := lineage.classifier.facts.get("leaks"):
        notes.append(f"The classifier was trained although its splits leak (--allow-leakage): {'; '.join(leaks)}.")
    return notes
