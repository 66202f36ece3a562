"""Draw distributions of scores as violins, by class, method and mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from histoxai.report.figures.style import (
    BLUE,
    GREEN,
    METHODS_PER_ROW,
    RED,
    abbreviate,
    add_grid,
    styled,
    tick_rotation,
)

_CASE_MARKERS = {
    1: ("o", GREEN, "1 right, sure"),
    2: ("s", BLUE, "2 right, unsure"),
    3: ("^", RED, "3 wrong, sure"),
    4: ("D", "#CC79A7", "4 wrong, unsure"),
}
_LEAST_VALUES, _LEAST_RANGE = 3, 1e-9  # of a kernel density estimate


@dataclass(frozen=True)
class PatchScores:
    """Scores of n patches in one measure.

    values (n, methods, masks), NaN undefined; label (n,): index into `classes`; case (n,): 1 to 4, the study's cases.
    """

    values: np.ndarray
    label: np.ndarray
    case: np.ndarray
    classes: Sequence[str]
    methods: Sequence[str]
    masks: Sequence[str]


@styled
def violins(scores: PatchScores, measure: str, has_note: bool) -> Figure:
    """Draw a violin per class in a panel per mask (row) and method (column), with marks at the means of the cases.

    measure: label of the vertical axis. has_note: leave room for a note above. Methods after the first
    METHODS_PER_ROW go on below.
    """
    methods, masks = scores.methods, scores.masks
    top = 0.55 if has_note else 0.3
    columns, lines = min(METHODS_PER_ROW, len(methods)), -(-len(methods) // METHODS_PER_ROW) * len(masks)
    width, height = 2.6 * columns + 0.8, 2.3 * lines + 0.3 + top
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    # Margins in inches: an automatic layout would draw every panel twice.
    figure.subplots_adjust(0.6 / width, 0.65 / height, 1 - 0.1 / width, 1 - top / height, 0.1, 0.38)
    for (line, column), axes in np.ndenumerate(grid):
        mask, method = line % len(masks), line // len(masks) * METHODS_PER_ROW + column
        if method >= len(methods):
            axes.set_visible(False)
            continue
        _draw_panel(axes, scores, method, mask)
        if column == 0:
            axes.set_ylabel(measure)
    handles = [Line2D([], [], marker=m, color=c, ls="", ms=5, label=label) for m, c, label in _CASE_MARKERS.values()]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False)
    return figure


def _draw_panel(axes: Axes, scores: PatchScores, method: int, mask: int) -> None:
    values = scores.values[:, method, mask]
    for code in range(len(scores.classes)):
        of_class = (scores.label == code) & np.isfinite(values)
        _draw_violin(axes, values[of_class], code)
        for case, (marker, colour, _) in _CASE_MARKERS.items():
            of_case = values[of_class & (scores.case == case)]
            if len(of_case):
                axes.plot(code + (case - 2.5) * 0.13, of_case.mean(), marker, color=colour, ms=4)
    names = [abbreviate(c) for c in scores.classes]
    axes.set_xticks(range(len(names)), names, rotation=tick_rotation(names))
    axes.set_xlim(-0.6, len(names) - 0.4)
    add_grid(axes, "y")
    axes.set_title(f"{abbreviate(scores.methods[method])}, {scores.masks[mask].replace('_', '-')}")


def _draw_violin(axes: Axes, values: np.ndarray, x: int) -> None:
    # too few or equal values have no density, and are drawn one by one
    if len(values) < _LEAST_VALUES or np.ptp(values) <= _LEAST_RANGE:
        axes.plot([x] * len(values), values, "_", color="#6baed6", ms=12)
        return
    bodies: Any = axes.violinplot(values, [x], widths=0.85, showextrema=False)["bodies"]
    for body in bodies:
        body.set(facecolor="#9ecae1", edgecolor="#6baed6", alpha=0.8)
