"""What a report is asked to write, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReportRequest:
    """Output of `report` and how it is made.

    output: folder of the page. export: folder for tables, figures, methods text and, with `slides`, overlays of slides;
    its files are written anew each time. workers: processes that draw figures. force: replace a report of other
    settings. dry_run: check the inputs and write nothing. allow_partial: accept scores of only some patches.
    """

    output: Path
    export: Path | None = None
    slides: bool = True
    workers: int = 1
    force: bool = False
    dry_run: bool = False
    allow_partial: bool = False
