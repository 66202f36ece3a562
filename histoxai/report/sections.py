"""Parts of a report's page that speak of what came before the scores: splits, classifier, segmenter."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.report.content import accuracy_rows
from histoxai.report.figures import evidence, figures
from histoxai.report.figures.pool import Gallery
from histoxai.report.lineage import Lineage
from histoxai.split.leaks import KIND_LABELS, find_leaks, read_identity, share_of_split
from histoxai.split.relations import relations
from histoxai.store.patches import Patches


def leakage(patches: Patches) -> dict[str, Any]:
    """Patches of one split with relatives in another, as rows by kind; `words` where there are none."""
    used = np.unique(patches.split[patches.split > 0])
    if len(used) < 2:
        return {"rows": [], "words": "This store has no two splits between which anything could leak."}
    try:
        who = read_identity(patches)
    except InputRefused as error:
        return {"rows": [], "words": f"Whether splits share relatives is not known ({error})."}
    found = find_leaks(patches, who, relations(who))
    rows = [
        {
            "held_out": held,
            "seen_in": seen,
            "words": KIND_LABELS.get(kind, "any of these"),
            "patches": len(r),
            "share": share_of_split(patches, r, held),
        }
        for (held, seen), kinds in found.items()
        for kind, r in kinds.items()
        if len(r)
    ]
    return {
        "rows": rows,
        "words": "No patch of one split has a relative in another: not by patient or scan, not as a copy, turned or "
        "not, not as an overlapping tile.",
    }


def notes(lineage: Lineage) -> list[str]:
    """What a reader has to know of the splits before believing an accuracy."""
    made = []
    if lineage.patches.store.header["settings"].get("split_by") == "patch":
        made.append(
            "This store was split by patch, the study's rule: rotated copies of one patch can be in training and in "
            "test at once, so the accuracy below is too good."
        )
    if leaks := lineage.classifier.facts.get("leaks"):
        made.append(f"The classifier was trained although its splits leak (--allow-leakage): {'; '.join(leaks)}.")
    return made


def classifier(lineage: Lineage, gallery: Gallery) -> dict[str, Any]:
    """How the classifier was trained, and how well it does."""
    facts = lineage.classifier.facts
    metrics, history = facts["metrics"], lineage.history("classifier")
    made = {
        **{k: facts[k] for k in ("arch", "epochs", "best_epoch", "split")},
        "patches": metrics["patches"],
        "mean": metrics["mean_class_accuracy"],
        "accuracy": metrics["accuracy"],
        "table": accuracy_rows(metrics),
        "curves": gallery.add(
            "curves-classifier", figures.curves, history, facts["best_epoch"], "accuracy", "accuracy"
        ),
        "confusion": gallery.add("confusion", figures.confusion, np.array(metrics["confusion"]), facts["classes"]),
        # runs made before they were measured have none
        "scores": metrics.get("scores"),
        "reliability": None,
    }
    if made["scores"] and made["scores"]["patches"]:
        made["reliability"] = gallery.add("reliability", evidence.reliability, made["scores"]["reliability"])
        for row in made["table"]:
            row.update({k: made["scores"]["per_class"][row["name"]][k] for k in ("low", "high")})
    return made


def segmenter(lineage: Lineage, counts: np.ndarray, masks: list[str], gallery: Gallery) -> dict[str, Any]:
    """How the segmenter was trained, and what its masks cover; counts (n, method, mask, 4): TP, FP, FN, TN."""
    facts = lineage.segmenter.facts
    positives = counts[:, 0, :, 0] + counts[:, 0, :, 2]  # tp + fn: the mask's pixels, the same for all methods
    pixels = counts[:, 0].sum(axis=-1)
    table = [
        {
            "name": name.replace("_", "-"),
            **facts["metrics"]["masks"][name],
            "share": float(positives[:, k].sum() / pixels[:, k].sum()),
            "empty": f"{int((positives[:, k] == 0).sum())} of {len(positives)}",
        }
        for k, name in enumerate(masks)
    ]
    history = lineage.history("segmenter")
    return {
        **{k: facts[k] for k in ("epochs", "best_epoch")},
        "split": facts.get("split", "validation"),  # all that segmenters were once measured on
        "curves": gallery.add("curves-segmenter", figures.curves, history, facts["best_epoch"], "soft_iou", "soft IoU"),
        "table": table,
        "warning": _scale_warning(lineage),
    }


def _scale_warning(lineage: Lineage) -> str:
    theirs, ours = lineage.segmenter.mpp, lineage.patches.mpp
    scale = lineage.masks.header["settings"]["scale"]
    if theirs is None or ours is None:
        return (
            "Micrometres per pixel of segmenter or patches are unknown: nuclei may not have the size that it learned."
        )
    if abs(ours / theirs / scale - 1) > 0.05:
        return (
            f"It learned at {theirs:g} micrometres per pixel and saw patches of {ours:g}: "
            "nuclei did not have the size that it learned (histoxai masks --rescale mends that)."
        )
    return ""
