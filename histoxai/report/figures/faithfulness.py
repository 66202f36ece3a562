"""Drawings of tests on the model: probabilities while pixels go or come, and maps while layers are drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from histoxai.report.figures.evidence import numbers
from histoxai.report.figures.figures import GREY, STYLE, finished, line_of, short
from histoxai.report.figures.pool import Gallery

_CAPTIONS = {
    "deletion": "Deletion: the target's mean probability while pixels go, strongest first. The lower, the better.",
    "insertion": "Insertion: the target's mean probability while pixels come, strongest first. The higher, the better.",
}
_HARDLY = 0.05  # a rank correlation this close to that of another seed alone


def curves(rows: Sequence[dict[str, Any]], words: str) -> Figure:
    """Mean probability over the share of pixels changed, a line per method; null models are dotted.

    rows: `method`, `null`, `share`, `probability` (None where nothing is known).
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for k, row in enumerate(rows):
            known = [np.nan if v is None else v for v in row["probability"]]
            axes.plot(row["share"], known, label=short(row["method"]), **line_of(k, row["null"]))
        axes.set(xlabel=f"share of pixels {words}", ylabel="probability of the target", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.grid(color="#eeeeee")
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
        return finished(figure)


def cascade(rows: Sequence[dict[str, Any]], layers: Sequence[str], nulls: Sequence[str]) -> Figure:
    """Rank correlation with the trained network's map, by the last part drawn anew, a line per method.

    rows: of `sanity` in `score --json`. The first place is the same network with another seed.
    """
    places: list[str | None] = [None, *layers]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=GREY, lw=1)
        for k, method in enumerate(dict.fromkeys(r["method"] for r in rows)):
            found = {r["down_to"]: r["rank_correlation"] for r in rows if r["method"] == method}
            values = [np.nan if found[p] is None else found[p] for p in places]
            axes.plot(range(len(places)), values, marker=".", label=short(method), **line_of(k, method in nulls))
        names = ["another seed", *[short(name) for name in layers]]
        axes.set_xticks(range(len(places)), names, rotation=60 if len("".join(names)) > 50 else 0)
        axes.set(ylabel="rank correlation", xlabel="drawn anew from the output down to", ylim=(None, 1.02))
        axes.grid(axis="y", color="#eeeeee")
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
        return finished(figure)


def faithfulness(tested: dict[str, Any], gallery: Gallery) -> dict[str, Any] | None:
    """The page's section on the probes, from what `score --json` says; None where the store has none."""
    found = tested["faithfulness"]
    if found is None:
        return None
    null = {name: m["null"] for name, m in tested["methods"].items()}
    drawn = []
    for probe in dict.fromkeys(row["probe"] for row in found["curves"]):
        rows = [{**r, "null": null[r["method"]]} for r in found["curves"] if r["probe"] == probe]
        words = {"deletion": "that have gone", "insertion": "that have come"}.get(probe, "changed")
        drawn.append(
            {
                "name": probe,
                "png": gallery.add(f"faithfulness-{probe}", curves, rows, words),
                "alt": f"Curves of {probe}: mean probability of the target over the share of pixels, by method",
                "caption": _CAPTIONS.get(probe, probe),
            }
        )
    rows = [r for r in found["rows"] if r["class"] == "all"]
    rows.sort(key=lambda r: list(found["probes"]).index(r["probe"]))
    table = [
        {
            **row,
            "first": k == 0 or rows[k - 1]["probe"] != row["probe"],
            "better": "higher" if row["higher_is_better"] else "lower",
            "null": null[row["method"]],
        }
        for k, row in enumerate(rows)
    ]
    return {"figures": drawn, "rows": table, "unfinished": _unfinished(found["probes"])}


def sanity(tested: dict[str, Any], gallery: Gallery) -> dict[str, Any] | None:
    """The page's section on randomised weights; None where the store has none."""
    found = tested["sanity"]
    if found is None:
        return None
    layers = found["settings"]["layers"]
    nulls = [name for name, m in tested["methods"].items() if m["null"]]
    return {
        "figure": gallery.add("cascade", cascade, found["rows"], layers, nulls),
        "patches": max((r["n"] for r in found["rows"]), default=0),
        "rows": found["rows"],
        "words": [_left(m, found["rows"], layers) for m, about in tested["methods"].items() if not about["null"]],
        "unfinished": _unfinished({"sanity": found}),
    }


def _left(method: str, rows: Sequence[dict[str, Any]], layers: Sequence[str]) -> str:
    # what is left of a map when all weights are new, beside what another seed of the method leaves
    by = {r["down_to"]: r["rank_correlation"] for r in rows if r["method"] == method}
    seed, last = by[None], by[layers[-1]]
    if seed is None or last is None:
        return f"{method}: no value."
    words = "hardly changes" if last >= seed - _HARDLY else "changes"
    return f"{method} {words}: {last:.3f} with all weights drawn anew, {seed:.3f} with another seed alone."


def _unfinished(items: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{name}: {row['shards']} of {row['of']} shards are done; run its command again."
        for name, row in items.items()
        if row["shards"] < row["of"]
    ]


def arrays(tested: dict[str, Any]) -> dict[str, np.ndarray]:
    """The numbers of both sections for `data.zarr`."""
    made: dict[str, np.ndarray] = {}
    if found := tested["faithfulness"]:
        rows = [r for r in found["rows"] if r["class"] == "all"]
        made |= {f"faithfulness_{k}": np.array([r[k] for r in rows]) for k in ("method", "probe", "n")}
        made |= {f"faithfulness_{k}": numbers([r[k] for r in rows]) for k in ("mean", "low", "high")}
    if found := tested["sanity"]:
        rows = found["rows"]
        made["sanity_method"] = np.array([r["method"] for r in rows])
        made["sanity_down_to"] = np.array([r["down_to"] or "" for r in rows])
        made |= {f"sanity_{k}": numbers([r[k] for r in rows]) for k in ("rank_correlation", "low", "high", "ssim")}
    return made
