"""Build the section on robustness: scores by mask size and by threshold, agreement of methods, ink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from histoxai.core.digits import decimals_for
from histoxai.core.progress import Progress
from histoxai.core.provenance import keyed_seed
from histoxai.report.content import SectionContent
from histoxai.report.figures.robustness import CURVE_MEASURES, agreement_matrix, means_by_mask_size, threshold_curves
from histoxai.report.lineage import Lineage
from histoxai.report.sections.base import ReportInputs, Section, SummaryRow, columns, with_null
from histoxai.report.sections.ink import ink_findings
from histoxai.report.wording import count_patches, hyphenated, measure_in_sentence
from histoxai.statistics.ranks import centred_ranks, rank_correlation

_MAX_PATCHES = 200  # for the agreement of methods


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section and its numbers; parts that the store cannot show are None."""
    sizes = [r for r in inputs.summary["sizes"] if r["metric"] == inputs.primary]
    curves = inputs.summary["map_thresholds"]
    content: SectionContent = {
        "sizes": _size_figures(inputs, sizes),
        "thresholds": _threshold_figures(inputs, curves),
        "map_threshold": inputs.lineage.map_threshold,
        "mask_thresholds": _mask_thresholds(inputs.summary["mask_thresholds"]),
        "mask_threshold": inputs.lineage.scores.header["settings"]["mask_threshold"],
        "agreement": None,
        "ink": ink_findings(inputs),
    }
    arrays = {
        **columns("sizes", sizes, ("method", "mask", "size", "n")),
        **columns("sizes", sizes, ("mean", "low", "high", "chance"), float),
        **columns("cuts", curves, ("method", "mask")),
        **(columns("cuts", curves, list(CURVE_MEASURES), float) if curves else {}),
    }
    if content["ink"]:
        keys = ("class", "method"), ("share", "area", "low", "high", "p_holm")
        arrays |= columns("ink", content["ink"]["rows"], keys[0]) | columns(
            "ink", content["ink"]["rows"], keys[1], float
        )
    if len(inputs.axes["method"]) > 1:
        correlations, patches = _method_agreement(inputs.lineage, inputs.patch_id, inputs.progress)
        content["agreement"] = _agreement(inputs, correlations, patches)
        arrays["agreement"] = correlations
    return Section(content, arrays)


def _size_figures(inputs: ReportInputs, sizes: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    label, drawn = measure_in_sentence(inputs.primary), []
    for mask in dict.fromkeys(r["mask"] for r in inputs.summary["sizes"]):
        rows = with_null([r for r in sizes if r["mask"] == mask], inputs.summary)
        name = hyphenated(mask)
        pixels = {r["size"]: r["pixels"] for r in rows if r["pixels"]}
        spans = ", ".join(f"{size} {low:,} to {high:,} px" for size, (low, high) in pixels.items())
        figure = inputs.figures.add(f"sizes-{mask}", means_by_mask_size, rows, label)
        caption = f"By the size of the {name} mask, in thirds of the patches that have one ({spans}); grey: chance."
        drawn.append({"mask": name, "rows": rows, "png": figure, "caption": caption})
    return drawn


def _threshold_figures(inputs: ReportInputs, curves: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    drawn = []
    for mask in dict.fromkeys(r["mask"] for r in curves):
        rows = with_null([r for r in curves if r["mask"] == mask], inputs.summary)
        if any(v is not None for r in rows for v in r["iou"]):
            figure = inputs.figures.add(f"thresholds-{mask}", threshold_curves, rows, inputs.lineage.map_threshold)
            drawn.append({"mask": hyphenated(mask), "png": figure})
    return drawn


def _mask_thresholds(all_rows: Sequence[SummaryRow]) -> dict[str, Any] | None:
    # a table of IoU by mask threshold
    rows = [r for r in all_rows if r["metric"] == "iou"]
    if not rows:
        return None
    table: list[dict[str, Any]] = []
    for mask in dict.fromkeys(r["mask"] for r in rows):
        for k, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
            means = [r["mean"] for r in rows if (r["mask"], r["method"]) == (mask, method)]
            table.append({"mask": hyphenated(mask), "method": method, "means": means, "first": k == 0})
    for row in table:
        of_mask = [other["means"] for other in table if other["mask"] == row["mask"]]
        row["decimals"] = [decimals_for(column) for column in zip(*of_mask, strict=True)]
    return {"at": list(dict.fromkeys(r["mask_threshold"] for r in rows)), "rows": table}


def _method_agreement(lineage: Lineage, patch_id: np.ndarray, progress: Progress) -> tuple[np.ndarray, int]:
    # Mean rank correlations (M, M) of the methods' relevance, and the number of patches. At most _MAX_PATCHES are
    # chosen by the hash of their ids (n,). Maps that are constant or not finite are left out.
    methods = lineage.method_names
    order = np.argsort([float(keyed_seed(0, "agreement", i)) for i in patch_id.tolist()], kind="stable")
    positions = np.sort(order[:_MAX_PATCHES])
    sums, counts = np.zeros((len(methods), len(methods))), np.zeros((len(methods), len(methods)))
    progress.start("agreement", len(positions))
    for position in positions:
        ranks = [centred_ranks(lineage.relevance_maps(name, [position])[0]) for name in methods]
        for i, first in enumerate(ranks):
            for j, second in enumerate(ranks[: i + 1]):
                value = rank_correlation(first, second)
                if np.isfinite(value):
                    sums[[i, j], [j, i]] += value  # once if i is j
                    counts[[i, j], [j, i]] += 1
        progress.advance()
    progress.stop()
    with np.errstate(invalid="ignore"):
        return sums / counts, len(positions)


def _agreement(inputs: ReportInputs, correlations: np.ndarray, patches: int) -> dict[str, Any]:
    methods = inputs.axes["method"]
    return {
        "png": inputs.figures.add("agreement", agreement_matrix, correlations, methods),
        "caption": "How far two methods say the same: rank correlation of their maps, mean over "
        f"{count_patches(patches)}. Methods that agree are no independent witnesses.",
        "patches": patches,
        "methods": list(methods),
        "table": correlations.tolist(),
    }
