"""Summaries of `score` and `info` as tables for people."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from histoxai.cli.tables.base import Table, number, partial
from histoxai.cli.tables.maps import checks

MASK_WORDS = {"tumor": "tumor mask", "non_tumor": "non-tumor mask"}


def scored(summary: dict[str, Any]) -> list[Any]:
    """What `score` prints for people: means per class, the primary measure beside chance, the study's conclusions."""
    pages: list[Any] = [scores(summary, mask) for mask in dict.fromkeys(r["mask"] for r in summary["rows"])]
    pages += [beside_chance(summary), conclusions(summary)]
    if summary["faithfulness"]:
        pages.append(faithfulness(summary))
    if summary["sanity"]:
        pages.append(sanity(summary))
    return pages


def beside_chance(summary: dict[str, Any]) -> Table:
    """The primary measure of every method over all classes: interval, chance, and the best null model."""
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
    rows.sort(key=lambda r: list(MASK_WORDS).index(r["mask"]))
    for row in rows:
        mine = null.get((row["mask"], row["method"]))
        beyond = f"{_signed(mine['difference'])} ({mine['null']})" if mine else "-"
        table.add_row(
            MASK_WORDS[row["mask"]],
            _named(row["method"], summary),
            number(row["mean"]),
            _ends(row),
            number(row["chance"]),
            _signed(row["above_chance"]["mean"]),
            _ends(row["above_chance"]),
            beyond,
            _p(mine["p_holm"]) if mine else "-",
            end_section=row is not rows[-1] and row["method"] == rows[-1]["method"],
        )
    if few := [r["groups"] for r in rows if r["withheld"]]:
        here = " to ".join(str(n) for n in sorted({min(few), max(few)}))
        table.caption = Text(f"no interval with fewer than 10 groups (here {here})", justify="left")
    return table


def faithfulness(summary: dict[str, Any]) -> Table:
    """What the model says when pixels go: means over all classes, with intervals."""
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
    for method in dict.fromkeys(r["method"] for r in rows):
        cells = [by[method, p] for p in probes]
        words = [number(c["mean"]) + (f" ({_ends(c)})" if c["low"] is not None else "") for c in cells]
        table.add_row(_named(method, summary), *words)
    return table


def sanity(summary: dict[str, Any]) -> Table:
    """How much of each map is left when layers are drawn anew, from the output down to the one that is named."""
    rows, of = summary["sanity"]["rows"], summary["sanity"]
    layers = list(dict.fromkeys(r["down_to"] for r in rows if r["down_to"]))
    shown = [layers[round(k * (len(layers) - 1) / 4)] for k in range(5)] if len(layers) > 5 else layers
    part = "" if of["shards"] == of["of"] else f"PARTIAL, {of['shards']} of {of['of']} shards: "
    title = "rank correlation with the trained network's map, parts drawn anew from the output down to"
    table = Table(title=f"{part}{title} ({len(layers)} in all)")
    for column in ("method", "patches", "nothing but seeds", *dict.fromkeys(shown), "SSIM", "the map"):
        table.add_column(column, no_wrap=column == "method")
    by = {(r["method"], r["down_to"]): r for r in rows}
    for method in dict.fromkeys(r["method"] for r in rows):
        first, last = by[method, None], by[method, layers[-1]]
        a, b = first["rank_correlation"], last["rank_correlation"]
        words = "-" if a is None or b is None else "hardly changes" if b > a - 0.05 else "changes"
        numbers = [number(by[method, x]["rank_correlation"]) for x in (None, *dict.fromkeys(shown))]
        table.add_row(_named(method, summary), str(first["n"]), *numbers, number(last["ssim"]), words)
    return table


def conclusions(summary: dict[str, Any]) -> Table:
    """The study's conclusions, each tested, in words."""
    table = Table(title="the study's conclusions on these patches (p after Holm)", show_lines=True)
    table.add_column("claim", ratio=2)
    table.add_column("answer", ratio=3)
    for row in summary["conclusions"]:
        table.add_row(row["claim"], row["words"])
    return table


def _named(method: str, summary: dict[str, Any]) -> str:
    return f"{method} (null)" if summary["methods"][method]["null"] else method


def _ends(row: dict[str, Any]) -> str:
    return "-" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def scores(summary: dict[str, Any], mask: str) -> Table:
    """Means per class for one mask, the study's table 6."""
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
        for method in methods:
            cells = [_cell(by[metric, method, c]) for c in classes]
            last = method == methods[-1]
            name = _named(method, summary)
            table.add_row(metric if method == methods[0] else "", name, *cells, end_section=last)
    return table


def _cell(row: dict[str, Any]) -> str:
    undefined = f" ({row['undefined']})" if row["undefined"] else ""
    return number(row["mean"]) + undefined


def store(summary: dict[str, Any]) -> list[Table]:
    """What `info` knows: facts, then the state of each item, then the arrays."""
    facts = Table(title=summary["path"], show_header=False)
    facts.add_column("fact")
    facts.add_column("value")
    for key, value in summary.items():
        if key in ("path", "items", "arrays", "schema", "checks") or (
            key in ("failed", "partial", "verified") and not value
        ):
            continue
        if isinstance(value, dict):
            value = "\n".join(f"{k}: {v}" for k, v in value.items())
        facts.add_row(key.replace("_", " "), "\n".join(value) if key == "failed" else str(value))
    tables = [facts]
    if summary.get("items"):
        tables.append(_items(summary["items"], summary["verified"]))
    if summary.get("checks"):
        tables.append(checks(summary["checks"]))
    if summary.get("arrays"):
        arrays = Table(title="arrays")
        for column in ("array", "shape", "dtype"):
            arrays.add_column(column)
        for name, array in summary["arrays"].items():
            arrays.add_row(name, " x ".join(map(str, array["shape"])), array["dtype"])
        tables.append(arrays)
    return tables


def _items(items: dict[str, dict[str, Any]], verified: bool) -> Table:
    table = Table(title="work items" + (", checksums recomputed" if verified else ""))
    for column in ("item", "shards done", "missing", *(["failed"] if verified else []), "seconds a shard", "peak MB"):
        table.add_column(column, justify="left" if column in ("item", "missing", "failed") else "right")
    table.add_column("hosts")
    for name, item in items.items():
        seconds = sorted(r["seconds"] for r in item["records"] if r["seconds"] is not None)
        hosts = ", ".join(f"{h} {n}" for h, n in item["hosts"].items())
        table.add_row(
            name,
            f"{item['done']} of {item['shards']}",
            item["missing"] or "-",
            *([item["failed"] or "-"] if verified else []),
            f"{seconds[len(seconds) // 2]:.1f}, at most {seconds[-1]:.1f}" if seconds else "-",
            item["peak_memory_mb"] or "-",
            hosts or "-",
        )
    return table
