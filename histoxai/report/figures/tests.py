"""Draw test results: differences with their intervals, means of several runs, and ranks of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histoxai.report.figures.style import (
    BLUE,
    GREY,
    LINE_COLOURS,
    ORANGE,
    RED,
    abbreviate,
    label_rows,
    styled,
)

_INCHES_PER_METHOD = 0.32
_INCHES_PER_RUN = 0.16
_RUN_MARKERS = "os^Dv<>"


@dataclass(frozen=True)
class Bar:
    """A difference with the ends of its interval and its corrected p; None where undefined or withheld."""

    name: str
    difference: float | None
    low: float | None
    high: float | None
    p_holm: float | None
    null: bool


# a mean of `score --json`
MeanRow = Mapping[str, Any]


@styled
def forest(panels: Sequence[tuple[str, Sequence[Bar]]], label: str, alpha: float) -> Figure:
    """Draw differences with their intervals, in a titled panel per mask.

    label: of the horizontal axis. A dot is filled where the corrected p is at most `alpha`. Null models are orange.
    """
    most = max(len(bars) for _, bars in panels)
    figure = Figure(figsize=(8.6, 0.9 + _INCHES_PER_METHOD * most), layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, bars) in zip(grid, panels, strict=True):
        axes.axvline(0, color=GREY, lw=1)
        if all(bar.difference is None for bar in bars):
            text = "undefined: no patch has this mask"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=GREY)
        for k, bar in enumerate(bars):
            _draw_bar(axes, k, bar, alpha)
        axes.set(title=title, xlabel=label)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        label_rows(axes, [bar.name for bar in bars])
    return figure


def _draw_bar(axes: Axes, y: int, bar: Bar, alpha: float) -> None:
    if bar.difference is None:
        return
    colour = ORANGE if bar.null else BLUE
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [y, y], color=colour, lw=1.6, solid_capstyle="butt")
    significant = bar.p_holm is not None and bar.p_holm <= alpha
    axes.plot(bar.difference, y, "o", ms=5, color=colour, mfc=colour if significant else "white")


@styled
def means_of_runs(
    panels: Sequence[tuple[str, Mapping[str, Sequence[MeanRow | None]]]], runs: Sequence[str], label: str
) -> Figure:
    """Draw means with their intervals: a panel per mask, a line per method, a colour per run, chance as a grey tick.

    panels: title, and by method its mean in each of `runs`, None where a run lacks the method.
    """
    most = max(len(methods) for _, methods in panels)
    height = 1.2 + _INCHES_PER_RUN * (len(runs) + 1) * most
    figure = Figure(figsize=(8.6, height), layout="constrained")
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, methods) in zip(grid, panels, strict=True):
        for k, means in enumerate(methods.values()):
            for r, mean in enumerate(means):
                _draw_run_mean(axes, k + (r - (len(runs) - 1) / 2) * 0.7 / len(runs), r, mean)
        axes.set(title=title, xlabel=label)
        label_rows(axes, list(methods))
    handles = [axes.plot([], [], label=abbreviate(run), **_run_style(r))[0] for r, run in enumerate(runs)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(runs)), frameon=False, fontsize=8)
    return figure


def _run_style(run: int) -> dict[str, Any]:
    marker, colour = _RUN_MARKERS[run % len(_RUN_MARKERS)], LINE_COLOURS[run % len(LINE_COLOURS)]
    return {"marker": marker, "ls": "", "color": colour}


def _draw_run_mean(axes: Axes, y: float, run: int, row: MeanRow | None) -> None:
    if row is None or row["mean"] is None:
        return
    style = _run_style(run)
    if row["chance"] is not None:
        axes.plot([row["chance"]] * 2, [y - 0.12, y + 0.12], color=GREY, lw=1)
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [y, y], color=style["color"], lw=1.6)
    axes.plot(row["mean"], y, ms=5, **style)


@styled
def rank_diagram(friedman: Mapping[str, Any]) -> Figure:
    """Draw the mean ranks of methods (1 is best) with a bar over methods that do not differ.

    friedman: `ranks` by method, `cliques` and `groups` of `score --json`. Source: Demsar 2006, JMLR 7:1.
    """
    ranks: Mapping[str, float] = friedman["ranks"]
    cliques = [c for c in friedman["cliques"] if len(c) > 1]
    figure = Figure(figsize=(8.6, 1.0 + 0.24 * len(ranks) + 0.16 * len(cliques)), layout="constrained")
    axes = figure.subplots()
    top = len(ranks) + 1
    axes.set(xlim=(1, len(ranks)), ylim=(-0.5, top + 0.35 * len(cliques) + 0.6))
    for k, name in enumerate(sorted(ranks, key=lambda name: ranks[name])):
        _draw_rank(axes, name, ranks[name], (top, len(ranks) - 1 - k))
    for k, clique in enumerate(cliques):
        of_clique = [ranks[name] for name in clique]
        y = top + 0.45 + 0.35 * k
        axes.plot([min(of_clique) - 0.03, max(of_clique) + 0.03], [y, y], color=RED, lw=3, solid_capstyle="butt")
    axes.set_xlabel(f"mean rank over {friedman['groups']} groups (1 is best)")
    axes.get_yaxis().set_visible(False)
    axes.spines["left"].set_visible(False)
    return figure


def _draw_rank(axes: Axes, name: str, rank: float, ends: tuple[int, int]) -> None:
    # ends: y of the scale, where the dot stands, and y of the name
    top, low = ends
    axes.plot([rank, rank], [top, low], color=GREY, lw=0.8)
    left_half = rank < top / 2
    axes.plot(rank, top, "o", ms=4, color=BLUE)
    axes.annotate(
        f"{rank:.2f}  {abbreviate(name)}" if left_half else f"{abbreviate(name)}  {rank:.2f}",
        (rank, low),
        xytext=(4 if left_half else -4, 0),
        textcoords="offset points",
        ha="left" if left_half else "right",
        va="center",
        fontsize=8,
    )
