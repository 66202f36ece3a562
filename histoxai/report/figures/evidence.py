"""Drawings of what tests say: differences with their intervals, ranks, and whether probabilities are honest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from histoxai.report.answer import words_of
from histoxai.report.figures.figures import BLUE, GREY, ORANGE, RED, STYLE, finished, short
from histoxai.report.figures.pool import Gallery

_LINE = 0.32  # inches a method


def forest(panels: Sequence[tuple[str, Sequence[dict[str, Any]]]], words: str, alpha: float) -> Figure:
    """Differences with their intervals, in a panel per mask; words: below the axis.

    panels: title, rows of `name`, `mean`, `low`, `high`, `p_holm` (None: withheld), `null`. Filled marks differ from
    0: their p, corrected, is at or below alpha. Null models are orange.
    """
    with rc_context(STYLE):
        most = max(len(rows) for _, rows in panels)
        figure = Figure(figsize=(8.6, 0.9 + _LINE * most), layout="constrained")
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (title, rows) in zip(grid, panels, strict=True):
            axes.axvline(0, color=GREY, lw=1)
            if all(row["mean"] is None for row in rows):
                words_there = "undefined: no patch has this mask"
                axes.text(0.5, 0.5, words_there, transform=axes.transAxes, ha="center", color=GREY)
            for k, row in enumerate(rows):
                if row["mean"] is None:
                    continue
                colour = ORANGE if row["null"] else BLUE
                if row["low"] is not None:
                    axes.plot([row["low"], row["high"]], [k, k], color=colour, lw=1.6, solid_capstyle="butt")
                sure = row["p_holm"] is not None and row["p_holm"] <= alpha
                axes.plot(row["mean"], k, "o", ms=5, color=colour, mfc=colour if sure else "white")
            axes.set(title=title, xlabel=words)
            axes.xaxis.get_major_locator().set_params(nbins=5)
            axes.set_yticks(range(len(rows)), [short(row["name"]) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", color="#eeeeee")
            axes.set_axisbelow(True)
        return finished(figure)


def ranks(found: dict[str, Any]) -> Figure:
    """Mean ranks of methods (1 is best); methods under one bar are not told apart.

    found: a row of `friedman`: ranks by name, critical_difference, cliques. Source: Demsar 2006, JMLR 7:1.
    """
    order = sorted(found["ranks"], key=found["ranks"].get)
    cliques = [c for c in found["cliques"] if len(c) > 1]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 1.0 + 0.24 * len(order) + 0.16 * len(cliques)), layout="constrained")
        axes = figure.subplots()
        top = len(order) + 1
        axes.set(xlim=(1, len(order)), ylim=(-0.5, top + 0.35 * len(cliques) + 0.6))
        for k, name in enumerate(order):
            rank, low = found["ranks"][name], len(order) - 1 - k
            axes.plot([rank, rank], [top, low], color=GREY, lw=0.8)
            right = rank < (1 + len(order)) / 2
            axes.plot(rank, top, "o", ms=4, color=BLUE)
            axes.annotate(
                f"{short(name)}  {rank:.2f}" if not right else f"{rank:.2f}  {short(name)}",
                (rank, low),
                xytext=(4 if right else -4, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=8,
            )
        for k, clique in enumerate(cliques):
            places = [found["ranks"][name] for name in clique]
            y = top + 0.45 + 0.35 * k
            axes.plot([min(places) - 0.03, max(places) + 0.03], [y, y], color=RED, lw=3, solid_capstyle="butt")
        axes.set_xlabel(f"mean rank over {found['groups']} groups (1 is best)")
        axes.get_yaxis().set_visible(False)
        axes.spines["left"].set_visible(False)
        return finished(figure)


def reliability(rows: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy of the patches whose confidence lies in a bin, against the confidence; marks grow with their number.

    rows: `confidence`, `accuracy`, `n` of each bin, None where it is empty.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.3), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="honest")
        known = [r for r in rows if r["n"]]
        total = sum(r["n"] for r in known)
        x, y = [r["confidence"] for r in known], [r["accuracy"] for r in known]
        axes.plot(x, y, color=BLUE, lw=1)
        axes.scatter(x, y, s=[8 + 160 * r["n"] / total for r in known], color=BLUE, zorder=3, label="this classifier")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        return finished(figure)


def section(tested: dict[str, Any], gallery: Gallery) -> dict[str, Any]:
    """The page's section on the primary measure: each method against chance, all against each other, conclusions.

    tested: of `score` in the corrected profile. gallery: takes the figures.
    """
    primary, level = tested["statistics"]["primary"], tested["statistics"]["level"]
    chosen = [r for r in tested["rows"] if (r["metric"], r["class"], r["case"]) == (primary, "all", "all")]
    masks = list(dict.fromkeys(r["mask"] for r in chosen))
    panels = [(f"{m.replace('_', '-')} mask", [r for r in chosen if r["mask"] == m]) for m in masks]
    null = {name: m["null"] for name, m in tested["methods"].items()}
    bars = [
        (title, [{**r["above_chance"], "name": r["method"], "null": null[r["method"]]} for r in rows])
        for title, rows in panels
    ]
    by_rank = [r for r in tested["friedman"] if r["ranks"] and len(r["ranks"]) > 1]
    return {
        "primary": words_of(primary),
        "level": f"{100 * level:g} %",
        "groups": tested["statistics"]["groups"],
        "forest": gallery.add("forest", forest, bars, f"{words_of(primary)}, above chance", 1 - level),
        "tables": [
            {"title": title, "rows": [{**r, "null": null[r["method"]]} for r in rows]} for title, rows in panels
        ],
        "ranks": [
            {"mask": r["mask"].replace("_", "-"), "png": gallery.add(f"ranks-{r['mask']}", ranks, r), "p": r["p"]}
            for r in by_rank
        ],
        "no_ranks": [{**r, "mask": r["mask"].replace("_", "-")} for r in tested["friedman"] if r["withheld"]],
        "conclusions": tested["conclusions"],
    }


def arrays(tested: dict[str, Any]) -> dict[str, np.ndarray]:
    """The numbers of `section` for `data.zarr`: the primary measure of each method and mask, and the conclusions."""
    primary = tested["statistics"]["primary"]
    rows = [r for r in tested["rows"] if (r["metric"], r["class"], r["case"]) == (primary, "all", "all")]
    found: dict[str, np.ndarray] = {
        "primary_method": np.array([r["method"] for r in rows]),
        "primary_mask": np.array([r["mask"] for r in rows]),
        **{f"primary_{k}": numbers([r[k] for r in rows]) for k in ("mean", "low", "high", "chance")},
        **{
            f"above_chance_{k}": numbers([r["above_chance"][k] for r in rows])
            for k in ("mean", "low", "high", "p_holm")
        },
        "conclusion": np.array([c["name"] for c in tested["conclusions"]]),
        "conclusion_answer": np.array([c["answer"] for c in tested["conclusions"]]),
        "conclusion_p_holm": numbers([c["p_holm"] for c in tested["conclusions"]]),
    }
    return found


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """Values as float64, NaN for None."""
    return np.array([np.nan if v is None else v for v in values], np.float64)
