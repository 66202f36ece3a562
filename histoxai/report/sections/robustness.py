"""Build what scores depend on: mask size, the thresholds of maps and masks, and the choice of method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from histoxai.report.agreement import MethodAgreement, method_agreement
from histoxai.report.figures.pool import PageFigure
from histoxai.report.figures.robustness import CURVE_MEASURES, agreement_matrix, means_by_mask_size, threshold_curves
from histoxai.report.sections.base import (
    ReportInputs,
    ScoreSummary,
    Section,
    SummaryRow,
    columns,
    float_columns,
    floats,
    with_null,
)
from histoxai.report.wording import count_patches, hyphenated, measure_in_sentence


class SizeFigure(TypedDict):
    """The primary measure by the size of one mask, and the rows behind the figure."""

    mask: str
    rows: list[dict[str, Any]]
    png: PageFigure
    caption: str


class ThresholdFigure(TypedDict):
    """Threshold curves of one mask."""

    mask: str
    png: PageFigure


class MaskThresholdRow(TypedDict):
    """IoU of a method at each mask threshold; first: of its mask."""

    mask: str
    method: str
    means: list[float | None]
    first: bool


class MaskThresholds(TypedDict):
    """A table of IoU by mask threshold; at: the thresholds."""

    at: list[float]
    rows: list[MaskThresholdRow]


class Agreement(TypedDict):
    """The matrix of rank correlations between methods, as figure and as numbers."""

    png: PageFigure
    caption: str
    patches: int
    methods: list[str]
    table: list[list[float]]


class RobustnessContent(TypedDict):
    """Values of the template `sections/robustness.html`, and the threshold curves of `sections/scores.html`.

    None stands for what the store cannot show.
    """

    sizes: list[SizeFigure]
    thresholds: list[ThresholdFigure]
    map_threshold: float
    mask_thresholds: MaskThresholds | None
    mask_threshold: float
    agreement: Agreement | None


def build(inputs: ReportInputs) -> Section:
    """Build the section and its numbers."""
    agreement = None
    if len(inputs.axes["method"]) > 1:
        agreement = method_agreement(inputs.lineage, inputs.patch_id, inputs.progress)
    content: RobustnessContent = {
        "sizes": _size_figures(inputs),
        "thresholds": _threshold_figures(inputs),
        "map_threshold": inputs.lineage.map_threshold,
        "mask_thresholds": _mask_thresholds(inputs.summary),
        "mask_threshold": inputs.lineage.scores.header["settings"]["mask_threshold"],
        "agreement": None if agreement is None else _agreement(inputs, agreement),
    }
    rows = [r for r in inputs.summary["sizes"] if r["metric"] == inputs.primary]
    arrays: dict[str, np.ndarray] = {
        **columns("sizes", rows, ("method", "mask", "size", "n")),
        **float_columns("sizes", rows, ("mean", "low", "high", "chance")),
        **_threshold_arrays(inputs.summary),
    }
    if agreement is not None:
        arrays["agreement"] = agreement.correlations
    return Section(content, arrays)


def _size_figures(inputs: ReportInputs) -> list[SizeFigure]:
    sizes, label = inputs.summary["sizes"], measure_in_sentence(inputs.primary)
    drawn: list[SizeFigure] = []
    for mask in dict.fromkeys(r["mask"] for r in sizes):
        of_mask = [r for r in sizes if (r["mask"], r["metric"]) == (mask, inputs.primary)]
        rows, name = with_null(of_mask, inputs.summary), hyphenated(mask)
        pixels = {r["size"]: r["pixels"] for r in rows if r["pixels"]}
        spans = ", ".join(f"{size} {low:,} to {high:,} px" for size, (low, high) in pixels.items())
        figure = inputs.figures.add(f"sizes-{mask}", means_by_mask_size, rows, label)
        caption = f"By the size of the {name} mask, in thirds of the patches that have one ({spans}); grey: chance."
        drawn.append({"mask": name, "rows": rows, "png": figure, "caption": caption})
    return drawn


def _threshold_figures(inputs: ReportInputs) -> list[ThresholdFigure]:
    curves, drawn = inputs.summary["map_thresholds"], []
    for mask in dict.fromkeys(r["mask"] for r in curves):
        rows = with_null([r for r in curves if r["mask"] == mask], inputs.summary)
        if any(v is not None for r in rows for v in r["iou"]):
            figure = inputs.figures.add(f"thresholds-{mask}", threshold_curves, rows, inputs.lineage.map_threshold)
            drawn.append(ThresholdFigure(mask=hyphenated(mask), png=figure))
    return drawn


def _threshold_arrays(summary: ScoreSummary) -> dict[str, np.ndarray]:
    rows: Sequence[SummaryRow] = summary["map_thresholds"]
    arrays = columns("cuts", rows, ("method", "mask"))
    return arrays | {f"cuts_{k}": np.array([floats(r[k]) for r in rows]) for k in CURVE_MEASURES if rows}


def _mask_thresholds(summary: ScoreSummary) -> MaskThresholds | None:
    rows = [r for r in summary["mask_thresholds"] if r["metric"] == "iou"]
    if not rows:
        return None
    table: list[MaskThresholdRow] = []
    for mask in dict.fromkeys(r["mask"] for r in rows):
        for k, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
            means = [r["mean"] for r in rows if (r["mask"], r["method"]) == (mask, method)]
            table.append({"mask": hyphenated(mask), "method": method, "means": means, "first": k == 0})
    return {"at": list(dict.fromkeys(r["mask_threshold"] for r in rows)), "rows": table}


def _agreement(inputs: ReportInputs, agreement: MethodAgreement) -> Agreement:
    methods = inputs.axes["method"]
    return {
        "png": inputs.figures.add("agreement", agreement_matrix, agreement.correlations, methods),
        "caption": "How far two methods say the same: rank correlation of their maps, mean over "
        f"{count_patches(agreement.patches)}. Methods that agree are no independent witnesses.",
        "patches": agreement.patches,
        "methods": list(methods),
        "table": agreement.correlations.tolist(),
    }
