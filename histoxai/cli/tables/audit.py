"""Show the summary of `audit` as tables."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table, number

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
            number(leaked["accuracy"]),
            "-" if clean is None else number(clean["accuracy"]),
            "-" if both is None else f"{both['accuracy']:+.3f}",
            ends,
        )
    if not found["kinds"]:
        table.add_row("no patch has one", "0", "-", number(found["accuracy"]), "-", "-")
    return table
