"""Draw how scores depend on the size of masks, the threshold of maps, and the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histoxai.report.figures.style import BLUE, GREY, GRID_GREY, ORANGE, abbreviate, line_style, styled

CURVE_MEASURES = {"iou": "IoU", "precision": "precision", "recall": "recall"}
_COLUMNS = 6


@styled
def means_by_mask_size(rows: Sequence[Mapping[str, Any]], label: str) -> Figure:
    """Draw a measure with its interval for small, medium and large masks: a panel per method, chance as a grey tick.

    rows: `sizes` of `score --json`, of one mask and measure, with `null`. label: of the vertical axis.
    """
    methods = list(dict.fromkeys(r["method"] for r in rows))
    sizes = list(dict.fromkeys(r["size"] for r in rows))
    columns = min(_COLUMNS, len(methods))
    lines = -(-len(methods) // columns)
    figure = Figure(figsize=(1.5 * columns + 0.9, 2.1 * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, method in zip(grid.ravel(), methods, strict=False):
        for row in (r for r in rows if r["method"] == method):
            _draw_mean(axes, sizes.index(row["size"]), row)
        axes.set_title(abbreviate(method))
        axes.set_xticks(range(len(sizes)), sizes, rotation=60)
        axes.set_xlim(-0.6, len(sizes) - 0.4)
        axes.grid(axis="y", color=GRID_GREY)
    for axes in grid.ravel()[len(methods) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    return figure


def _draw_mean(axes: Axes, x: int, row: Mapping[str, Any]) -> None:
    colour = ORANGE if row["null"] else BLUE
    if row["chance"] is not None:
        axes.plot([x - 0.3, x + 0.3], [row["chance"]] * 2, color=GREY, lw=1)
    if row["mean"] is None:
        return
    if row["low"] is not None:
        axes.plot([x, x], [row["low"], row["high"]], color=colour, lw=1.6)
    axes.plot(x, row["mean"], "o", ms=5, color=colour)


@styled
def threshold_curves(rows: Sequence[Mapping[str, Any]], used: float) -> Figure:
    """Draw IoU, precision and recall of maps over the threshold that binarises them, a line per method.

    rows: `map_thresholds` of `score --json`, of one mask, with `null`. used: the threshold of the scores, dotted.
    """
    figure = Figure(figsize=(9.2, 2.9), layout="constrained")
    panels = figure.subplots(1, len(CURVE_MEASURES), sharey=True)
    for axes, (measure, title) in zip(panels, CURVE_MEASURES.items(), strict=True):
        for k, row in enumerate(rows):
            label = abbreviate(row["method"]) if measure == "iou" else None
            axes.plot(row["threshold"], np.array(row[measure], float), label=label, **line_style(k, row["null"]))
        axes.axvline(used, color=GREY, lw=1, ls=":")
        axes.set(title=title, xlabel="threshold", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(color=GRID_GREY)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


@styled
def agreement_matrix(correlations: np.ndarray, methods: Sequence[str]) -> Figure:
    """Draw mean rank correlations (M, M) between the methods' maps; NaN stays white."""
    side = 1.6 + 0.52 * len(methods)
    figure = Figure(figsize=(side + 1.6, side), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    image = axes.imshow(correlations, cmap="RdBu_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(correlations):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(j, i, f"{value:z.2f}", ha="center", va="center", color=colour, fontsize=8)
    names = [abbreviate(m) for m in methods]
    axes.set_xticks(range(len(names)), names, rotation=60)
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, shrink=0.8, label="rank correlation")
    return figure
