"""Summaries of stages as tables for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table as RichTable
from rich.text import Text


class Table(RichTable):
    """A table whose titles and cells are text: a class named `[red]` is no markup."""

    def __init__(self, title: str, **options: Any) -> None:
        super().__init__(title=Text(title, justify="left"), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*[Text(str(c)) for c in cells], **options)

    def add_column(self, header: Any = "", *rest: Any, **options: Any) -> None:
        super().add_column(Text(str(header)), *rest, **options)


MASK_WORDS = {"tumor": "tumor mask", "non_tumor": "non-tumor mask"}


def counts(summary: dict[str, Any]) -> Table:
    """Class counts after `ingest`, the first column of the study's table 1."""
    table = Table(title=f"{summary['output']}: {summary['patches']} patches, {summary['groups']} groups")
    table.add_column("class")
    table.add_column("patches", justify="right")
    for name, n in summary["classes"].items():
        table.add_row(name, f"{n:,}")
    if not summary["classes"]:
        table.add_row("(no classes; masks)" if summary["has_targets"] else "(no classes)", f"{summary['patches']:,}")
    return table


def plan(summary: dict[str, Any]) -> Table:
    """The whole of the study's table 1, after `augment`."""
    table = Table(title=f"split by {summary['split_by']}")
    table.add_column("class")
    columns = {
        "patches": "patches",
        "rotated": "after rotation",
        "train": "train",
        "validation": "validation",
        "test": "test",
    }
    for words in columns.values():
        table.add_column(words, justify="right")
    for row in summary["table"]:
        table.add_row(row["class"], *[f"{row[c]:,}" for c in columns])
    return table


KINDS = {
    "scan": "same scan",
    "patient": "same patient",
    "site": "same site",
    "copy": "rotated copy (augment)",
    "duplicate": "exact duplicate",
    "rotated": "turned or mirrored",
    "overlap": "overlapping tile",
    "near": "near duplicate",
    "any": "any of these",
}


def audit(summary: dict[str, Any]) -> list[Table]:
    """What a store's splits leak, and what the study's rule would."""
    made = [_leaks(summary)]
    if summary["relatives"]:
        table = Table(title=f"relatives among all {summary['patches']:,} patches, {summary['families']:,} families")
        for column in ("kind", "patches", "sets", "across groups"):
            table.add_column(column, justify="left" if column == "kind" else "right")
        for r in summary["relatives"]:
            table.add_row(KINDS[r["kind"]], f"{r['patches']:,}", f"{r['sets']:,}", f"{r['across_groups']:,}")
        made.append(table)
    if summary["study_rule"]["withheld"] is None:
        made.append(_study_rule(summary["study_rule"]))
    if summary["run"] is not None:
        made.append(_worth(summary["run"]))
    return made


def _leaks(summary: dict[str, Any]) -> Table:
    sizes = ", ".join(f"{name} {n:,}" for name, n in summary["splits"].items() if n)
    table = Table(title=f"{summary['path']}: {sizes}")
    pairs = list(dict.fromkeys((r["held_out"], r["seen_in"]) for r in summary["leaks"]))
    table.add_column("has a relative in another split")
    for held, seen in pairs:
        table.add_column(f"{held}, seen in {seen}", justify="right")
    for kind in dict.fromkeys(r["kind"] for r in summary["leaks"]):
        rows = [
            r for pair in pairs for r in summary["leaks"] if (r["held_out"], r["seen_in"], r["kind"]) == (*pair, kind)
        ]
        cells = [f"{r['patches']:,}" + (f" ({r['share']:.1%})" if r["patches"] else "") for r in rows]
        table.add_row(KINDS[kind], *cells, style="bold" if kind == "any" else None)
    return table


def _study_rule(found: dict[str, Any]) -> Table:
    table = Table(title="what the study's rule (a draw over patches) would leak into its test split")
    for column in ("class", "test", "rotated copy in training", "any relative there"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in [*found["classes"].items(), ("all", found)]:
        share = f" ({row['copy_share']:.1%})" if row["copy"] else ""
        table.add_row(name, f"{row['test']:,}", f"{row['copy']:,}{share}", f"{row['any']:,}")
    return table


def _worth(found: dict[str, Any]) -> Table:
    table = Table(
        title=f"{found['path']}: accuracy on {found['split']} patches with a relative in training, and without any"
    )
    for column in ("kind", "patches", "leaked", "clean", "difference", "interval"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for row in found["kinds"]:
        leaked, clean, both = row["leaked"], row["clean"], row["difference"]
        ends = "-" if both is None or both["low"] is None else f"{both['low']:+.3f} to {both['high']:+.3f}"
        table.add_row(
            KINDS[row["kind"]],
            f"{leaked['patches']:,}",
            _number(leaked["accuracy"]),
            "-" if clean is None else _number(clean["accuracy"]),
            "-" if both is None else f"{both['accuracy']:+.3f}",
            ends,
        )
    if not found["kinds"]:
        table.add_row("no patch has one", "0", "-", _number(found["accuracy"]), "-", "-")
    return table


def accuracy(summary: dict[str, Any]) -> Table:
    """Per-class and mean accuracy on the test split, the study's table 4."""
    table = Table(title=f"{summary['output']}: accuracy on {summary['split']} ({summary['patches']} patches)")
    table.add_column("class")
    table.add_column("patches", justify="right")
    table.add_column("accuracy", justify="right")
    for name, value in summary["per_class"].items():
        table.add_row(name, str(value["n"]), _number(value["accuracy"]))
    table.add_row("mean of classes", str(summary["patches"]), _number(summary["mean_class_accuracy"]), style="bold")
    return table


def segmentation(summary: dict[str, Any]) -> Table:
    """IoU and Dice of each plane on the validation split."""
    table = Table(title=f"{summary['output']}: validation, pooled pixels")
    for column in ("mask", "IoU", "Dice"):
        table.add_column(column, justify="left" if column == "mask" else "right")
    for name, value in summary["masks"].items():
        table.add_row(name, _number(value["iou"]), _number(value["dice"]))
    return table


# What the table of classes shows; the others are in --json.
SHOWN = ("iou", "precision", "recall", "f1", "spearman", "phi", "pixel_accuracy", "auroc", "average_precision")


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
        title=f"{_partial(summary)}{facts['primary'].replace('_', ' ')}, all classes, {level} intervals over "
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
            _number(row["mean"]),
            _ends(row),
            _number(row["chance"]),
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
        words = [_number(c["mean"]) + (f" ({_ends(c)})" if c["low"] is not None else "") for c in cells]
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
        numbers = [_number(by[method, x]["rank_correlation"]) for x in (None, *dict.fromkeys(shown))]
        table.add_row(_named(method, summary), str(first["n"]), *numbers, _number(last["ssim"]), words)
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
    rows = [r for r in summary["rows"] if r["mask"] == mask and r["case"] == "all" and r["metric"] in SHOWN]
    classes = list(dict.fromkeys(r["class"] for r in rows))
    by = {(r["metric"], r["method"], r["class"]): r for r in rows}
    words = f"{MASK_WORDS[mask]}, {summary['profile']} profile: means (undefined patches in brackets)"
    table = Table(title=_partial(summary) + words)
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


def estimate(summary: dict[str, Any]) -> Table:
    """What `explain --estimate` found out, a method a line."""
    table = Table(
        title=f"one process, {summary['threads']} threads, {summary['device']}: {summary['patches']:,} patches, "
        f"{summary['shards']} shards"
    )
    table.add_column("method")
    for column in ("s a patch", "hours", "GB", "files"):
        table.add_column(column, justify="right")
    for row in summary["rows"]:
        last = row is summary["rows"][-1]
        cells = f"{row['seconds_per_patch']:.3g}", _hours(row["hours"]), f"{row['gb']:.3g}", f"{row['files']:,}"
        table.add_row(row["method"], *cells, end_section=last)
    total = summary["total"]
    table.add_row("all", "", _hours(total["hours"]), f"{total['gb']:.3g}", f"{total['files']:,}")
    return table


def _hours(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else "< 0.01"


def _partial(summary: dict[str, Any]) -> str:
    found = summary.get("partial")
    return f"PARTIAL, {found['patches']} of {found['of']} patches: " if found else ""


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _cell(row: dict[str, Any]) -> str:
    undefined = f" ({row['undefined']})" if row["undefined"] else ""
    return _number(row["mean"]) + undefined


def methods(summary: dict[str, Any]) -> Table:
    """What `explain --list` knows: every method with its paper, its cost, and its options."""
    table = Table(title="methods of `explain --method`; options as -O NAME.OPTION=VALUE")
    table.add_column("method", no_wrap=True)
    table.add_column("what")
    table.add_column("source")
    table.add_column("passes a patch")
    table.add_column("options")
    for row in summary["rows"]:
        options = ", ".join(f"{k}={v}" for k, v in row["options"].items()) or "-"
        table.add_row(row["method"], row["what"], row["source"], row["passes"], options, end_section=True)
    return table


def checks(summary: dict[str, Any]) -> Table:
    """What the checks beside the maps say, a method a line: medians, with the least and the most behind."""
    table = Table(title="checks of the maps: medians (least to most)")
    table.add_column("method", no_wrap=True)
    for column in ("patches", "constant", "all zero"):
        table.add_column(column, justify="right")
    counted = ("patches", "constant", "zero")
    names = list(dict.fromkeys(k for row in summary.values() for k in row if k not in counted))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for method, row in summary.items():
        spreads = [_spread(row.get(name)) for name in names]
        table.add_row(method, *[str(row.get(k, "-")) for k in counted], *spreads)
    return table


def _spread(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    if value["min"] == value["max"]:
        return f"{value['median']:.3g}"
    return f"{value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})"


def parity(summary: dict[str, Any]) -> Table:
    """What `explain --check-parity` found, a method a line."""
    low = summary["precision"] != "fp32"
    table = Table(title=f"ours against the libraries in fp32 on {summary['device']}: largest difference / max |A|")
    table.add_column("method", no_wrap=True)
    for column in ("patches", "difference", "our error", "library's error", "contract"):
        table.add_column(column, justify="right")
    if low:
        table.add_column(f"rank correlation {summary['precision']} to fp32", justify="right")
    for row in summary["rows"]:
        numbers = [_small(row.get(k)) for k in ("difference", "our_error", "library_error")]
        words = {True: "holds", False: "BROKEN", None: "no library"}[row["holds"]]
        rank = [f"{row['rank_to_fp32']:.4f}" if row["rank_to_fp32"] is not None else "-"] if low else []
        table.add_row(row["method"], str(row["patches"]), *numbers, words, *rank)
    return table


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
