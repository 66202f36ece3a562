"""Show the summaries of `explain` as tables: methods, estimates, checks, parity."""

from __future__ import annotations

from typing import Any

from histoxai.cli.tables.base import Table, small


def estimate(summary: dict[str, Any]) -> Table:
    """Show the cost of each method as `explain --estimate` measured it."""
    title = (
        f"one process, {summary['threads']} threads, {summary['device']}: {summary['patches']:,} patches, "
        f"{summary['shards']} shards"
    )
    table = Table(title, "method", "s a patch", "hours", "GB", "files")
    for row in summary["rows"]:
        last = row is summary["rows"][-1]
        cells = f"{row['seconds_per_patch']:.3g}", _hours(row["hours"]), f"{row['gb']:.3g}", f"{row['files']:,}"
        table.add_row(row["method"], *cells, end_section=last)
    total = summary["total"]
    table.add_row("all", "", _hours(total["hours"]), f"{total['gb']:.3g}", f"{total['files']:,}")
    return table


def _hours(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else "< 0.01"


def methods(summary: dict[str, Any]) -> Table:
    """List every method with its paper, cost and options."""
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
    """Show the checks of each method's maps: medians with minimum and maximum."""
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
    """Show how far each method is from its library."""
    low = summary["precision"] != "fp32"
    table = Table(title=f"ours against the libraries in fp32 on {summary['device']}: largest difference / max |A|")
    table.add_column("method", no_wrap=True)
    for column in ("patches", "difference", "our error", "library's error", "contract"):
        table.add_column(column, justify="right")
    if low:
        table.add_column(f"rank correlation {summary['precision']} to fp32", justify="right")
    for row in summary["rows"]:
        numbers = [small(row.get(k)) for k in ("difference", "our_error", "library_error")]
        words = {True: "holds", False: "BROKEN", None: "no library"}[row["holds"]]
        rank = [f"{row['rank_to_fp32']:.4f}" if row["rank_to_fp32"] is not None else "-"] if low else []
        table.add_row(row["method"], str(row["patches"]), *numbers, words, *rank)
    return table
