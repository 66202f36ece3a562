"""Show progress on stderr: a Rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from histoxai.core.progress import Progress, Silent
from histoxai.core.s3_paths import with_s3_urls
from histoxai.core.safe_text import escape_message

_PLAIN_EVERY = 5.0  # seconds between progress lines where stderr is no terminal


@contextmanager
def display(quiet: bool) -> Iterator[Progress]:
    """Show a stage's progress: a Rich bar on a terminal, plain lines elsewhere, warnings only if quiet."""
    console = Console(stderr=True)
    listener = _Bars(console) if console.is_terminal and not quiet else _Lines(quiet)
    try:
        yield listener
    finally:
        listener.stop()


def safe(text: str) -> str:
    """Return a message as a terminal can show it: objects by their URL, names without control characters."""
    return escape_message(with_s3_urls(text))


class _Lines(Silent):
    def __init__(self, quiet: bool) -> None:
        super().__init__()
        self._quiet, self._what, self._total, self._done, self._last = quiet, "", 0, 0, 0.0
        self._started, self._before = 0.0, 0

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        self._what, self._total, self._done, self._last = what, total or 0, done, time.monotonic()
        self._started, self._before = self._last, done

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if not self._quiet and (now - self._last > _PLAIN_EVERY or self._done == self._total):
            self._last = now
            total = f"/{self._total}" if self._total else ""
            print(f"{self._what}: {self._done}{total}{self._pace(now)} {note}".rstrip(), file=sys.stderr, flush=True)

    def row(self, cells: Mapping[str, str]) -> None:
        if not self._quiet:
            print("; ".join(f"{k} {v}".strip() for k, v in cells.items() if v), file=sys.stderr, flush=True)

    def _pace(self, now: float) -> str:
        # of the whole task so far, and what that leaves
        rate = (self._done - self._before) / max(now - self._started, 1e-9)
        if not self._total or now - self._started < 1:
            return ""
        left = timedelta(seconds=round((self._total - self._done) / rate)) if rate else "?"
        return f", {rate:,.1f}/s, {left} left" if self._done < self._total else f", {rate:,.1f}/s"

    def say(self, message: str) -> None:
        if not self._quiet:
            print(safe(message), file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        print(f"warning: {safe(message)}", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Steps per second, averaged over the last seconds."""

    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "-/s")


class _Table(RichProgress):
    """Bars with a table of finished rows above them: the last ones where the terminal is too low for all."""

    rows: list[Mapping[str, str]]

    def get_renderables(self) -> Iterator[RenderableType]:
        rows = getattr(self, "rows", [])
        if rows:
            table = Table(box=SIMPLE_HEAD, pad_edge=False)
            for name in rows[0]:
                table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
            for cells in rows[-max(3, self.console.size.height - 8) :]:
                table.add_row(*cells.values())
            yield table
        yield from super().get_renderables()


class _Bars(Progress):
    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: _Table | None = None
        self._task: Any = None

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        self.stop()
        self._bar = _Table(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._bar.rows = []
        self._bar.start()
        self._task = self._bar.add_task(what, total=total, completed=done, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=note)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def row(self, cells: Mapping[str, str]) -> None:
        if self._bar is not None:
            self._bar.rows.append(cells)

    def say(self, message: str) -> None:
        self._console.print(safe(message), markup=False, highlight=False)

    def news(self, message: str) -> None:
        self.warn(message)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {safe(message)}", markup=False, highlight=False, style="yellow")
