"""Draw tests on the model: probabilities while pixels are removed or added, and maps of randomised weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from histoxai.report.figures.style import GREY, GRID_GREY, abbreviate, line_style, styled, tick_rotation


@styled
def probability_curves(rows: Sequence[Mapping[str, Any]], change: str) -> Figure:
    """Draw the mean probability of the target over the share of changed pixels, a line per method.

    rows: `method`, `null`, `share`, `probability` (None where undefined). change: the change to the pixels, such as
    "removed", for the label of the horizontal axis. Null models are dotted.
    """
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for k, row in enumerate(rows):
        probability = np.array(row["probability"], float)
        axes.plot(row["share"], probability, label=abbreviate(row["method"]), **line_style(k, row["null"]))
    axes.set(xlabel=f"share of pixels {change}", ylabel="probability of the target", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.grid(color=GRID_GREY)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


@styled
def randomisation_cascade(rows: Sequence[Mapping[str, Any]], layers: Sequence[str], nulls: Collection[str]) -> Figure:
    """Draw the rank correlation with the trained network's map by the last randomised layer, a line per method.

    rows: `sanity` of `score --json`. The first position is the trained network with another seed of the method.
    nulls: names of null models, which are dotted. Source: Adebayo et al. 2018.
    """
    positions: list[str | None] = [None, *layers]
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, lw=1)
    for k, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
        correlation = {r["down_to"]: r["rank_correlation"] for r in rows if r["method"] == method}
        values = np.array([correlation[p] for p in positions], float)
        axes.plot(range(len(positions)), values, marker=".", label=abbreviate(method), **line_style(k, method in nulls))
    names = ["another seed", *[abbreviate(name) for name in layers]]
    axes.set_xticks(range(len(positions)), names, rotation=tick_rotation(names, 50))
    axes.set(ylabel="rank correlation", xlabel="last randomised layer, from the output down", ylim=(None, 1.02))
    axes.grid(axis="y", color=GRID_GREY)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure
