"""Show the summary of `score` as tables."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from histoxai.cli.tables.base import Table, number, partial
from histoxai.core.digits import FEWEST, decimals_for, signed

MASK_WORDS = {"tumor": "tumor mask", "non_tumor": "non-tumor mask"}


def scored(summary: dict[str, Any]) -> list[Any]:
    """Show means per class, the primary measure beside chance, and the study's conclusions."""
    pages: list[Any] = [scores(summary, mask) for mask in dict.fromkeys(r["mask"] for r in summary["rows"])]
    pages += [beside_chance(summary), conclusions(summary)]
    if summary["faithfulness"]:
        pages.append(faithfulness(summary))
    if summary["sanity"]:
        pages.append(sanity(summary))
    return pages


def beside_chance(summary: dict[str, Any]) -> Table:
    """Show each method's primary measure over all classes: interval, chance, best null model."""
    facts = summary["statistics"]
    level = f"{facts['level']:.0%}"
    table = Table(
        title=f"{partial(summary)}{facts['primary'].replace('_', ' ')}, all classes, {level} intervals over "
        f"{facts['groups']} groups"
    )
    table.add_column("mask")
    table.add_column("method", no_wrap=True)
    for column in ("mean", "interval", "chance", "above chance", "interval", "above the best null model", "p (Holm)"):
        table.add_column(column, justify="right")
    null = {(r["mask"], r["method"]): r for r in summary["best_null"]}
    rows = [r for r in summary["rows"] if (r["metric"], r["class"], r["case"]) == (facts["primary"], "all", "all")]
    beyond_null = {
        mask: decimals_for([0.0, *(r["difference"] for (m, _), r in null.items() if m == mask)]) for mask in MASK_WORDS
    }
    rows.sort(key=lambda r: list(MASK_WORDS).index(r["mask"]))
    for row in rows:
        mine = null.get((row["mask"], row["method"]))
        of_mask = [r for r in rows if r["mask"] == row["mask"]]
        decimals = decimals_for(r["mean"] for r in of_mask)
        above = decimals_for([0.0, *(r["above_chance"]["mean"] for r in of_mask)])
        beyond = f"{signed(mine['difference'], beyond_null[row['mask']], '-')} ({mine['null']})" if mine else "-"
        table.add_row(
            MASK_WORDS[row["mask"]],
            _named(row["method"], summary),
            number(row["mean"], decimals),
            _ends(row, decimals),
            number(row["chance"], decimals),
            signed(row["above_chance"]["mean"], above, "-"),
            _ends(row["above_chance"], above),
            beyond,
            _p(mine["p_holm"]) if mine else "-",
            end_section=row is not rows[-1] and row["method"] == rows[-1]["method"],
        )
    if few := [r["groups"] for r in rows if r["withheld"]]:
        here = " to ".join(str(n) for n in sorted({min(few), max(few)}))
        table.caption = Text(f"no interval with fewer than 10 groups (here {here})", justify="left")
    return table


def faithfulness(summary: dict[str, Any]) -> Table:
    """Show faithfulness by method: means over all classes, with intervals."""
    rows = [r for r in summary["faithfulness"]["rows"] if r["class"] == "all"]
    probes = list(dict.fromkeys(r["probe"] for r in rows))
    states = summary["faithfulness"]["probes"]
    gaps = [f"{p} {f['shards']} of {f['of']} shards" for p, f in states.items() if f["shards"] < f["of"]]
    part = f"PARTIAL, {', '.join(gaps)}: " if gaps else ""
    table = Table(title=f"{part}faithfulness, all classes: means and intervals (higher or lower is better)")
    table.add_column("method", no_wrap=True)
    better = {r["probe"]: "higher" if r["higher_is_better"] else "lower" for r in rows}
    for probe in probes:
        table.add_column(f"{probe} ({better[probe]})", justify="right")
    by = {(r["method"], r["probe"]): r for r in rows}
    decimals = {p: decimals_for(r["mean"] for r in rows if r["probe"] == p) for p in probes}
    for method in dict.fromkeys(r["method"] for r in rows):
        words = [_with_interval(by[method, p], decimals[p]) for p in probes]
        table.add_row(_named(method, summary), *words)
    return table


def sanity(summary: dict[str, Any]) -> Table:
    """Show how similar each map stays while layers are randomised from the output down."""
    rows, of = summary["sanity"]["rows"], summary["sanity"]
    layers = list(dict.fromkeys(r["down_to"] for r in rows if r["down_to"]))
    shown = [layers[round(k * (len(layers) - 1) / 4)] for k in range(5)] if len(layers) > 5 else layers
    part = "" if of["shards"] == of["of"] else f"PARTIAL, {of['shards']} of {of['of']} shards: "
    title = "rank correlation with the trained network's map, parts drawn anew from the output down to"
    table = Table(title=f"{part}{title} ({len(layers)} in all)")
    for column in ("method", "patches", "nothing but seeds", *dict.fromkeys(shown), "SSIM", "the map"):
        table.add_column(column, no_wrap=column == "method")
    by = {(r["method"], r["down_to"]): r for r in rows}
    methods = list(dict.fromkeys(r["method"] for r in rows))
    parts = [None, *dict.fromkeys(shown)]
    decimals = {part: decimals_for(by[m, part]["rank_correlation"] for m in methods) for part in parts}
    similar = decimals_for(by[m, layers[-1]]["ssim"] for m in methods)
    for method in methods:
        first, last = by[method, None], by[method, layers[-1]]
        a, b = first["rank_correlation"], last["rank_correlation"]
        words = "-" if a is None or b is None else "hardly changes" if b > a - 0.05 else "changes"
        numbers = [number(by[method, part]["rank_correlation"], decimals[part]) for part in parts]
        table.add_row(_named(method, summary), str(first["n"]), *numbers, number(last["ssim"], similar), words)
    return table


def conclusions(summary: dict[str, Any]) -> Table:
    """Show the study's conclusions and what their tests say."""
    table = Table(title="the study's conclusions on these patches (p after Holm)", show_lines=True)
    table.add_column("claim", ratio=2)
    table.add_column("answer", ratio=3)
    for row in summary["conclusions"]:
        table.add_row(row["claim"], f"{row['words']}\nhere: {row['measure']}; the study: {row['study_measure']}")
    return table


def _named(method: str, summary: dict[str, Any]) -> str:
    return f"{method} (null)" if summary["methods"][method]["null"] else method


def _ends(row: dict[str, Any], decimals: int = FEWEST) -> str:
    return "-" if row["low"] is None else f"{number(row['low'], decimals)} to {number(row['high'], decimals)}"


def _with_interval(row: dict[str, Any], decimals: int) -> str:
    interval = "" if row["low"] is None else f" ({_ends(row, decimals)})"
    return number(row["mean"], decimals) + interval


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def scores(summary: dict[str, Any], mask: str) -> Table:
    """Show means per class for one mask, as the study's table 6."""
    from histoxai.score.summary.scores import measures_of  # it imports numpy

    shown = {name for name, measure in measures_of(summary["profile"]).items() if measure.headline}
    rows = [r for r in summary["rows"] if r["mask"] == mask and r["case"] == "all" and r["metric"] in shown]
    classes = list(dict.fromkeys(r["class"] for r in rows))
    by = {(r["metric"], r["method"], r["class"]): r for r in rows}
    words = f"{MASK_WORDS[mask]}, {summary['profile']} profile: means (undefined patches in brackets)"
    table = Table(title=partial(summary) + words)
    table.add_column("metric")
    table.add_column("method")
    for name in classes:
        table.add_column(name, justify="right")
    methods = list(dict.fromkeys(r["method"] for r in rows))
    for metric in dict.fromkeys(r["metric"] for r in rows):
        decimals = {c: decimals_for(by[metric, m, c]["mean"] for m in methods) for c in classes}
        for method in methods:
            cells = [_cell(by[metric, method, c], decimals[c]) for c in classes]
            last = method == methods[-1]
            name = _named(method, summary)
            table.add_row(metric if method == methods[0] else "", name, *cells, end_section=last)
    return table


def _cell(row: dict[str, Any], decimals: int) -> str:
    undefined = f" ({row['undefined']})" if row["undefined"] else ""
    return number(row["mean"], decimals) + undefined
