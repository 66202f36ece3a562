"""Show the summary of `audit` as tables."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table, number
from histoxai.core.digits import signed

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
    """Show what the splits of a store leak, and what the study's rule would leak."""
    tables = [_leaks(summary)]
    if summary["relatives"]:
        title = f"relatives among all {summary['patches']:,} patches, {summary['families']:,} families"
        table = Table(title, "kind", "patches", "sets", "across groups")
        for r in summary["relatives"]:
            table.add_row(KINDS[r["kind"]], f"{r['patches']:,}", f"{r['sets']:,}", f"{r['across_groups']:,}")
        tables.append(table)
    if summary["study_rule"]["withheld"] is None:
        tables.append(_study_rule(summary["study_rule"]))
    if summary["run"] is not None:
        tables.append(_accuracy_of_run(summary["run"]))
    return tables


def _leaks(summary: dict[str, Any]) -> Table:
    sizes = ", ".join(f"{name} {n:,}" for name, n in summary["splits"].items() if n)
    pairs = list(dict.fromkeys((r["held_out"], r["seen_in"]) for r in summary["leaks"]))
    columns = [f"{held}, seen in {seen}" for held, seen in pairs]
    table = Table(f"{summary['path']}: {sizes}", "has a relative in another split", *columns)
    for kind in dict.fromkeys(r["kind"] for r in summary["leaks"]):
        rows = [
            r for pair in pairs for r in summary["leaks"] if (r["held_out"], r["seen_in"], r["kind"]) == (*pair, kind)
        ]
        cells = [f"{r['patches']:,}" + (f" ({r['share']:.1%})" if r["patches"] else "") for r in rows]
        table.add_row(KINDS[kind], *cells, style="bold" if kind == "any" else None)
    return table


def _study_rule(rule: dict[str, Any]) -> Table:
    title = "what the study's rule (a draw over patches) would leak into its test split"
    table = Table(title, "class", "test", "rotated copy in training", "any relative there")
    for name, row in [*rule["classes"].items(), ("all", rule)]:
        share = f" ({row['copy_share']:.1%})" if row["copy"] else ""
        table.add_row(name, f"{row['test']:,}", f"{row['copy']:,}{share}", f"{row['any']:,}")
    return table


def _accuracy_of_run(run: dict[str, Any]) -> Table:
    title = f"{run['path']}: accuracy on {run['split']} patches with a relative in training, and without any"
    table = Table(title, "kind", "patches", "leaked", "clean", "difference", "interval")
    for row in run["kinds"]:
        leaked, clean, both = row["leaked"], row["clean"], row["difference"]
        ends = "-" if both is None or both["low"] is None else f"{signed(both['low'])} to {signed(both['high'])}"
        table.add_row(
            KINDS[row["kind"]],
            f"{leaked['patches']:,}",
            number(leaked["accuracy"]),
            "-" if clean is None else number(clean["accuracy"]),
            "-" if both is None else signed(both["accuracy"]),
            ends,
        )
    if not run["kinds"]:
        table.add_row("no patch has one", "0", "-", number(run["accuracy"]), "-", "-")
    return table
