"""Results of a GPU check: one line of JSON each, as they come, and `gpu.json` and `gpu.md` made from all of them.

A line is a fact, a test's outcome, a rate, or a step that was not finished. Every step is a process of its own and
appends to the same file, so that a stop at any moment leaves what was done.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RESULTS = "HISTOXAI_GPU_RESULTS"  # the file, for the processes of the steps
PATCHES = 36_862  # of the published study
Row = dict[str, Any]


def append(row: Row, path: Path | None = None) -> None:
    """Append one result to the file, by default the one that RESULTS names."""
    with (path or Path(os.environ[RESULTS])).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """Read all whole lines; a line that is being written is left for later."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_report(folder: Path, rows: list[Row]) -> None:
    """Write `gpu.json` and `gpu.md` from the results so far; each is replaced as a whole."""
    _replace(folder / "gpu.json", json.dumps({"schema": "histoxai.gpu/1", "results": rows}, indent=1) + "\n")
    _replace(folder / "gpu.md", markdown(rows))


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def markdown(rows: list[Row]) -> str:
    """Return the results as the Markdown tables of docs/gpu.md."""
    facts = {key: value for row in rows if "fact" in row for key, value in [(row["fact"], row["value"])]}
    title = (
        "Rehearsed on a CPU with small sizes: no rate below means anything" if facts.get("rehearsal") else "Measured"
    )
    lines = [f"{title}: {facts.get('card', 'no card')}, {facts.get('date', '')}.", ""]
    lines += _table(
        ("fact", "value"), [(k, str(v)) for k, v in facts.items() if k not in ("rehearsal", "card", "date")]
    )
    lines += _tests([row for row in rows if "test" in row])
    lines += _rates([row for row in rows if "rate" in row])
    unfinished = [(row["step"], row["why"]) for row in rows if "why" in row and "step" in row]
    if unfinished:
        lines += ["Not finished:", "", *_table(("step", "why"), unfinished)]
    return "\n".join(lines)


def _tests(tests: list[Row]) -> list[str]:
    if not tests:
        return []
    count = {outcome: sum(t["outcome"] == outcome for t in tests) for outcome in ("passed", "failed", "skipped")}
    lines = [f"Tests: {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped.", ""]
    failed = [(t["test"], _one_line(t["why"])) for t in tests if t["outcome"] == "failed"]
    return lines + (_table(("failed test", "why"), failed) if failed else [])


def _rates(rates: list[Row]) -> list[str]:
    if not rates:
        return []
    header = ("at 256 px", "patches/s", "of the bare network", "to the library", f"hours for {PATCHES:,}", "peak GB")
    cells = []
    for row in rates:
        rate = row["patches_per_second"]
        cells.append(
            (
                row["rate"],
                f"{rate:,.3g}",
                _optional(row.get("share_of_bare"), "{:.0%}"),
                _optional(row.get("to_library"), "{:.1f} x"),
                f"{PATCHES / rate / 3600:.2f}",
                _optional(row.get("peak_gb"), "{:.1f}"),
            )
        )
    return _table(header, cells)


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")[:200]


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    line = "| " + " | ".join(header) + " |"
    return [line, "| " + " | ".join("---" for _ in header) + " |", *("| " + " | ".join(r) + " |" for r in rows), ""]
