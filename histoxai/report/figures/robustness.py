"""Drawings of what scores hang on: the size of masks, the thresholds of maps, and how far methods say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from histoxai.report.answer import words_of
from histoxai.report.figures.evidence import numbers
from histoxai.report.figures.figures import BLUE, GREY, ORANGE, STYLE, finished, line_of, short
from histoxai.report.figures.pool import Gallery

_DRAWN = ("iou", "precision", "recall")
_WORDS = {"iou": "IoU"}


def strata(rows: Sequence[dict[str, Any]], words: str) -> Figure:
    """A measure with its interval in small, medium and large masks: a panel per method, chance as a grey tick.

    rows: of `sizes` in `score --json`, of one mask and measure, with `null`.
    """
    methods = list(dict.fromkeys(r["method"] for r in rows))
    sizes = list(dict.fromkeys(r["size"] for r in rows))
    with rc_context(STYLE):
        columns = min(6, len(methods))
        lines = -(-len(methods) // columns)
        figure = Figure(figsize=(1.5 * columns + 0.9, 2.1 * lines + 0.3), layout="constrained")
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, method in zip(grid.ravel(), methods, strict=False):
            for row in (r for r in rows if r["method"] == method):
                k, colour = sizes.index(row["size"]), ORANGE if row["null"] else BLUE
                if row["chance"] is not None:
                    axes.plot([k - 0.3, k + 0.3], [row["chance"]] * 2, color=GREY, lw=1)
                if row["mean"] is None:
                    continue
                if row["low"] is not None:
                    axes.plot([k, k], [row["low"], row["high"]], color=colour, lw=1.6)
                axes.plot(k, row["mean"], "o", ms=5, color=colour)
            axes.set_title(short(method))
            axes.set_xticks(range(len(sizes)), sizes, rotation=60)
            axes.set_xlim(-0.6, len(sizes) - 0.4)
            axes.grid(axis="y", color="#eeeeee")
        for axes in grid.ravel()[len(methods) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(words)
        return finished(figure)


def cuts(rows: Sequence[dict[str, Any]], used: float) -> Figure:
    """IoU, precision and recall of maps over the threshold that cuts them, a line per method; `used` is dotted.

    rows: of `map_thresholds` in `score --json`, of one mask, with `null`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.9), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(_DRAWN), sharey=True), _DRAWN, strict=True):
            for k, row in enumerate(rows):
                values = [np.nan if v is None else v for v in row[name]]
                label = short(row["method"]) if name == "iou" else None
                axes.plot(row["threshold"], values, label=label, **line_of(k, row["null"]))
            axes.axvline(used, color=GREY, lw=1, ls=":")
            axes.set(title=_WORDS.get(name, name), xlabel="threshold", xlim=(0, 1), ylim=(0, 1.02))
            axes.grid(color="#eeeeee")
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
        return finished(figure)


def agreement(table: np.ndarray, methods: Sequence[str]) -> Figure:
    """Mean rank correlations (M, M) of the methods' maps; NaN is left white."""
    with rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        side = 1.6 + 0.52 * len(methods)
        figure = Figure(figsize=(side + 1.6, side), layout="constrained")
        axes = figure.subplots()
        shown = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        names = [short(m) for m in methods]
        axes.set_xticks(range(len(names)), names, rotation=60)
        axes.set_yticks(range(len(names)), names)
        figure.colorbar(shown, ax=axes, shrink=0.8, label="rank correlation")
        return finished(figure)


def sizes(tested: dict[str, Any], gallery: Gallery) -> list[dict[str, Any]]:
    """The primary measure by the size of masks: a figure per mask that has any."""
    primary, null = tested["statistics"]["primary"], _null(tested)
    made = []
    for mask in dict.fromkeys(r["mask"] for r in tested["sizes"]):
        rows = [r for r in tested["sizes"] if (r["mask"], r["metric"]) == (mask, primary)]
        pixels = {r["size"]: r["pixels"] for r in rows if r["pixels"]}
        spans = ", ".join(f"{size} {low:,} to {high:,} px" for size, (low, high) in pixels.items())
        rows = [{**r, "null": null[r["method"]]} for r in rows]
        name = mask.replace("_", "-")
        made.append(
            {
                "mask": name,
                "rows": rows,
                "png": gallery.add(f"sizes-{mask}", strata, rows, words_of(primary)),
                "caption": f"By the size of the {name} mask, in thirds of the patches that have one ({spans}); "
                "grey: chance.",
            }
        )
    return made


def thresholds(tested: dict[str, Any], used: float, gallery: Gallery) -> list[dict[str, Any]]:
    """Maps cut at every threshold: a figure per mask; none where the store has no curves."""
    null = _null(tested)
    made = []
    for mask in dict.fromkeys(r["mask"] for r in tested["map_thresholds"]):
        rows = [{**r, "null": null[r["method"]]} for r in tested["map_thresholds"] if r["mask"] == mask]
        if any(v is not None for r in rows for v in r["iou"]):
            picture = gallery.add(f"thresholds-{mask}", cuts, rows, used)
            made.append({"mask": mask.replace("_", "-"), "png": picture})
    return made


def mask_thresholds(tested: dict[str, Any]) -> dict[str, Any] | None:
    """IoU where masks are cut elsewhere, as rows of a table; None where the store has no curves."""
    rows = [r for r in tested["mask_thresholds"] if r["metric"] == "iou"]
    if not rows:
        return None
    at = list(dict.fromkeys(r["mask_threshold"] for r in rows))
    made: list[dict[str, Any]] = []
    for mask in dict.fromkeys(r["mask"] for r in rows):
        for k, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
            means = [r["mean"] for r in rows if (r["mask"], r["method"]) == (mask, method)]
            made.append({"mask": mask.replace("_", "-"), "method": method, "means": means, "first": k == 0})
    return {"at": at, "rows": made}


def matrix(table: np.ndarray, methods: Sequence[str], patches: int, gallery: Gallery) -> dict[str, Any]:
    """The page's matrix of agreement; table (M, M) of `explorer.agreement`, over so many patches."""
    caption = (
        f"How far two methods say the same: rank correlation of their maps, mean over {patches:,} "
        f"patch{'' if patches == 1 else 'es'}. Methods that agree are no independent witnesses."
    )
    return {
        "png": gallery.add("agreement", agreement, table, methods),
        "caption": caption,
        "patches": patches,
        "methods": list(methods),
        "table": table.tolist(),
    }


def arrays(tested: dict[str, Any], table: np.ndarray | None) -> dict[str, np.ndarray]:
    """The numbers of these sections for `data.zarr`; table: of agreement."""
    primary = tested["statistics"]["primary"]
    rows = [r for r in tested["sizes"] if r["metric"] == primary]
    made = {f"sizes_{k}": np.array([r[k] for r in rows]) for k in ("method", "mask", "size", "n")}
    made |= {f"sizes_{k}": numbers([r[k] for r in rows]) for k in ("mean", "low", "high", "chance")}
    cut = tested["map_thresholds"]
    made |= {f"cuts_{k}": np.array([r[k] for r in cut]) for k in ("method", "mask")}
    made |= {f"cuts_{k}": np.array([numbers(r[k]) for r in cut]) for k in _DRAWN if cut}
    return made if table is None else {**made, "agreement": table}


def _null(tested: dict[str, Any]) -> dict[str, bool]:
    return {name: m["null"] for name, m in tested["methods"].items()}
