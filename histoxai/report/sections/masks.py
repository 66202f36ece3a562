"""Build the section on the segmenter: its patches and training curves, and the coverage of its masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.report.content import SectionContent
from histoxai.report.figures.training import training_curves
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import ReportInputs, Section
from histoxai.report.sections.data import SPLIT_NAMES
from histoxai.report.wording import hyphenated

_SCALE_TOLERANCE = 0.05


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section, with the study's table 2 and the training curves as arrays."""
    counts = _split_counts(inputs.lineage)
    facts, history = inputs.lineage.segmenter.facts, inputs.lineage.history("segmenter")
    curves = (training_curves, history, facts["best_epoch"], "soft_iou", "soft IoU")
    segmenter = {
        "epochs": facts["epochs"],
        "best_epoch": facts["best_epoch"],
        "split": facts.get("split", "validation"),  # older runs were measured on no other
        "curves": inputs.figures.add("curves-segmenter", *curves),
        "table": _mask_rows(inputs),
        "table2": counts,
        "warning": _scale_warning(inputs.lineage),
    }
    arrays = {f"segmenter_{k}": v for k, v in history.items()}
    if counts:
        arrays |= {"table2_split": np.array(list(counts)), "table2_patches": np.array(list(counts.values()))}
    return Section({"segmenter": segmenter}, arrays)


def _split_counts(lineage: Lineage) -> dict[str, int]:
    # the study's table 2: the segmenter's patches in each split that has some; empty where their store is gone
    if (patches := lineage.segmenter_patches) is None:
        return {}
    counts = {name: int((patches.split == code).sum()) for code, name in SPLIT_NAMES.items()}
    return {name: n for name, n in counts.items() if n}


def _mask_rows(inputs: ReportInputs) -> list[dict[str, Any]]:
    # share: of the explained patches' pixels; empty: number of empty masks.
    # counts (n, mask, 4) of the first method: TP, FP, FN, TN. For every method TP + FN are the mask's pixels.
    counts, metrics = inputs.lineage.column("counts")[:, 0], inputs.lineage.segmenter.facts["metrics"]
    mask_pixels, pixels = counts[..., 0] + counts[..., 2], counts.sum(axis=-1)
    return [
        {
            "name": hyphenated(name),
            "iou": metrics["masks"][name]["iou"],
            "dice": metrics["masks"][name]["dice"],
            "share": float(mask_pixels[:, k].sum() / pixels[:, k].sum()),
            "empty": f"{int((mask_pixels[:, k] == 0).sum())} of {len(mask_pixels)}",
        }
        for k, name in enumerate(inputs.axes["mask"])
    ]


def _scale_warning(lineage: Lineage) -> str:
    trained, explained = lineage.segmenter.mpp, lineage.patches.mpp
    scale = lineage.masks.header["settings"]["scale"]
    if trained is None or explained is None:
        return (
            "Micrometres per pixel of segmenter or patches are unknown: nuclei may not have the size that it learned."
        )
    if abs(explained / trained / scale - 1) > _SCALE_TOLERANCE:
        return (
            f"It learned at {trained:g} micrometres per pixel and saw patches of {explained:g}: "
            "nuclei did not have the size that it learned (histoxai masks --rescale mends that)."
        )
    return ""
