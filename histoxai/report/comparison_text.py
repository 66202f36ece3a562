"""Runs side by side: sentences, drawings and tables of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from histoxai.report.answer import list_of, verb, words_of
from histoxai.report.export.tables import Table
from histoxai.report.figures.evidence import forest
from histoxai.report.figures.figures import GREY, LINES, STYLE, finished, short
from histoxai.report.figures.pool import Gallery

_LINE = 0.16  # inches a mark
_MARKS = "os^Dv<>"


def side_by_side(panels: Sequence[tuple[str, Sequence[dict[str, Any]]]], runs: Sequence[str], words: str) -> Figure:
    """Means with their intervals: a panel per mask, a line per method, a colour per run, chance as a grey tick.

    panels: title, rows of `method` and `of`, for each run `mean`, `low`, `high`, `chance`, or None where it has no such
    method.
    """
    with rc_context(STYLE):
        most = max(len(rows) for _, rows in panels)
        figure = Figure(figsize=(8.6, 1.2 + _LINE * (len(runs) + 1) * most), layout="constrained")
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (title, rows) in zip(grid, panels, strict=True):
            for k, row in enumerate(rows):
                for r, found in enumerate(row["of"]):
                    if found is None or found["mean"] is None:
                        continue
                    y, colour = k + (r - (len(runs) - 1) / 2) * 0.7 / len(runs), LINES[r % len(LINES)]
                    if found["chance"] is not None:
                        axes.plot([found["chance"]] * 2, [y - 0.12, y + 0.12], color=GREY, lw=1)
                    if found["low"] is not None:
                        axes.plot([found["low"], found["high"]], [y, y], color=colour, lw=1.6)
                    axes.plot(found["mean"], y, _MARKS[r % len(_MARKS)], ms=5, color=colour)
            axes.set(title=title, xlabel=words)
            axes.set_yticks(range(len(rows)), [short(row["method"]) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", color="#eeeeee")
            axes.set_axisbelow(True)
        marks = [
            axes.plot([], [], _MARKS[r % len(_MARKS)], color=LINES[r % len(LINES)], label=short(n))[0]
            for r, n in enumerate(runs)
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=min(4, len(runs)), frameon=False, fontsize=8)
        return finished(figure)


def pictures(found: Mapping[str, Any], gallery: Gallery) -> dict[str, Any]:
    """Both figures; found: of `comparing.compare`."""
    words, first = words_of(found["primary"]), found["runs"][0]["name"]
    names = [run["name"] for run in found["runs"]]
    panels = [(f"{mask.replace('_', '-')} mask", rows) for mask, rows in found["means"].items()]
    made = {"means": gallery.add("means", side_by_side, panels, names, words), "differences": None}
    rows = [row for pair in found["pairs"] for row in pair["rows"]]
    if rows:
        many = len(found["pairs"]) > 1
        bars = [
            (
                f"{mask.replace('_', '-')} mask",
                [
                    {**r, "name": f"{r['method']}, {r['run']}" if many else r["method"], "mean": r["difference"]}
                    for r in rows
                    if r["mask"] == mask
                ],
            )
            for mask in dict.fromkeys(r["mask"] for r in rows)
        ]
        label = f"{words}: less that of {short(first)}"
        made["differences"] = gallery.add("differences", forest, bars, label, 1 - found["level"])
    return made


def answer(found: Mapping[str, Any]) -> dict[str, Any]:
    """`question`, `answer`, a sentence or two for each run that is set beside the first, and `unsupported`."""
    first, words = found["runs"][0]["name"], words_of(found["primary"])
    others = [pair["run"] for pair in found["pairs"]]
    question = (
        f"Do the maps of {list_of(others)} lie on the {found['mask'].replace('_', '-')} nuclei more than those of "
        f"{first}, the first? Measured by {words} on the patches that both have."
    )
    lines, open_ = [], []
    for pair in found["pairs"]:
        lines.append(_sentence(pair, first, found))
        if pair["accuracy"] is not None:
            lines.append(_accuracy(pair, first, found))
        tested = [r for r in pair["rows"] if _mine(r, found) and r["p_holm"] is not None]
        open_ += [f"{r['method']} in {pair['run']}" for r in tested if not _differs(r, found)]
    unsupported = [f"That the maps of {list_of(open_)} differ from those in {first}."] if open_ else []
    return {"question": question, "answer": lines, "unsupported": unsupported}


def _mine(row: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return bool(row["mask"] == found["mask"] and row["difference"] is not None and not row["null"])


def _differs(row: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    if row["p_holm"] is None or row["p_holm"] > 1 - found["level"]:
        return 0
    return 1 if row["difference"] > 0 else -1


def _sentence(pair: Mapping[str, Any], first: str, found: Mapping[str, Any]) -> str:
    run = pair["run"]
    if not pair["patches"]:
        return f"{run} and {first} have no patch in common: their means stand side by side, and nothing is tested."
    rows = [r for r in pair["rows"] if _mine(r, found)]
    if not rows:
        return f"{run} and {first} have {pair['patches']:,} patches in common, and no method with a value on them."
    n, groups = (max(r[k] for r in rows) for k in ("n", "groups"))
    count = f"{n:,}" if n == pair["patches"] else f"{n:,} of the {pair['patches']:,}"
    on = f"On {count} patches that both have, with a value, of {groups:,} group{'' if groups == 1 else 's'}"
    if all(r["p_holm"] is None for r in rows):
        return f"{on}, nothing can be claimed of {run} and {first}: tests are withheld ({rows[0]['withheld']})."
    better = [f"{r['method']} ({r['difference']:+.3f})" for r in rows if _differs(r, found) > 0]
    worse = [f"{r['method']} ({r['difference']:+.3f})" for r in rows if _differs(r, found) < 0]
    if not better and not worse:
        return f"{on}, no method is shown to differ between {run} and {first}."
    parts = []
    if better:
        parts.append(f"{list_of(better)} {verb(better)} higher in {run} than in {first}")
    if worse:
        parts.append(f"{list_of(worse)} {verb(worse)} lower in {run} than in {first}")
    return f"{on}, {'; '.join(parts)} (p after Holm at or below {1 - found['level']:.2g})."


def _accuracy(pair: Mapping[str, Any], first: str, found: Mapping[str, Any]) -> str:
    row = pair["accuracy"]
    said = (
        f"The classifier of {pair['run']} is right on {100 * row['theirs']:.1f} % of the {row['n']:,} patches with one "
        f"class in both, that of {first} on {100 * row['first']:.1f} %"
    )
    if row["p_holm"] is None:
        return f"{said}; that is not tested ({row['withheld']})."
    if row["p_holm"] > 1 - found["level"]:
        return f"{said}: no difference is shown (p = {row['p_holm']:.2g} after Holm)."
    return f"{said}: a difference (p = {row['p_holm']:.2g} after Holm)."


def tables(content: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of the page, with the numbers that it shows."""
    names = [run["name"] for run in content["runs"]]
    yield Table(
        "runs",
        "The runs that are compared",
        ["run", "classifier", "patches", "groups", "split", "methods", "path"],
        [[r[k] for k in ("name", "arch", "patches", "groups", "split", "methods", "path")] for r in content["runs"]],
    )
    yield Table(
        "settings",
        "In what the runs differ",
        ["of", "setting", *names],
        [[r["of"], r["setting"], *r["values"]] for r in content["settings"]],
    )
    for mask, rows in content["means"].items():
        heads = [f"{n}: {k}" for n in names for k in _MEAN]
        body = [[row["method"], *[None if f is None else f[k] for f in row["of"] for k in _MEAN]] for row in rows]
        caption = f"{words_of(content['primary'])} of every run, {mask.replace('_', '-')} mask"
        yield Table(f"means-{mask}", caption, ["method", *heads], body)
    yield Table(
        "differences",
        f"{words_of(content['primary'])} less that of {names[0]}, on the patches of both",
        [
            "run",
            "mask",
            "method",
            "difference",
            "low",
            "high",
            "p (Holm)",
            "Wilcoxon (Holm)",
            "effect",
            "patches",
            "groups",
        ],
        [[r[k] for k in _PAIRED] for pair in content["pairs"] for r in pair["rows"]],
    )
    yield Table(
        "classes",
        f"{words_of(content['primary'])} by class, {content['mask'].replace('_', '-')} mask",
        ["class", "method", *names],
        [[r["class"], r["method"], *r["means"]] for r in content["classes"]],
    )


_MEAN = ("mean", "low", "high", "chance")
_PAIRED = (
    *("run", "mask", "method", "difference", "low", "high"),
    *("p_holm", "wilcoxon_holm", "effect", "n", "groups"),
)
