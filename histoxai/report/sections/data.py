"""Build the section on the data: class counts, leakage between splits, and notes on the split."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.report.content import SectionContent
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import ReportInputs, Section
from histoxai.settings import Augment
from histoxai.settings.base import with_omitted
from histoxai.split.leaks import KIND_LABELS, find_leaks, read_identity, share_of_split
from histoxai.split.relations import relations
from histoxai.store.patches import Patches

SPLIT_NAMES = {1: "train", 2: "validation", 3: "test"}


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section and the counts of its table."""
    patches = inputs.lineage.patches
    counts = _count_classes(patches)
    content: SectionContent = {
        "table1": counts,
        "leakage": _find_leakage(patches),
        "notes": _notes_on_split(inputs.lineage),
    }
    arrays = {"table1_class": np.array([row[0] for row in counts["rows"]])}
    for k, name in enumerate(counts["columns"], start=1):
        arrays[f"table1_{name.replace(' ', '_')}"] = np.array([row[k] for row in counts["rows"]])
    return Section(content, arrays)


def _count_classes(patches: Patches) -> dict[str, Any]:
    # the study's table 1: recorded by `augment`, or counted in a store that was not augmented
    if table := patches.store.header.get("table"):
        keys = {"patches": "patches", "after rotation": "rotated", **{s: s for s in SPLIT_NAMES.values()}}
        return {"columns": list(keys), "rows": [[r["class"], *[r[k] for k in keys.values()]] for r in table]}
    rows = []
    for code, name in enumerate(patches.classes):
        splits = patches.split[patches.label == code]
        rows.append([name, len(splits), *[int((splits == k).sum()) for k in SPLIT_NAMES]])
    return {"columns": ["patches", *SPLIT_NAMES.values()], "rows": rows}


def _find_leakage(patches: Patches) -> dict[str, Any]:
    # patches of one split with relatives in another, by kind of relation; "words" replace a table without rows
    used = np.unique(patches.split[patches.split > 0])
    if len(used) < 2:
        return {"rows": [], "words": "This store has no two splits between which anything could leak."}
    try:
        identity = read_identity(patches)
    except InputRefused as error:
        return {"rows": [], "words": f"Whether splits share relatives is not known ({error})."}
    rows = [
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


def _notes_on_split(lineage: Lineage) -> list[str]:
    # warnings about the split that put an accuracy in doubt
    notes = []
    settings = with_omitted(Augment, lineage.patches.store.header["settings"])
    if settings.get("split_by") == "patch":
        related = "rotated copies of one patch" if settings["rotate"] else "patches of one scan"
        notes.append(
            f"This store was split by patch, the study's rule: {related} can be in training and in test at once, so "
            "the accuracy below is too good."
        )
    if leaks := lineage.classifier.facts.get("leaks"):
        notes.append(f"The classifier was trained although its splits leak (--allow-leakage): {'; '.join(leaks)}.")
    return notes
