"""What the commands share at the terminal: progress on stderr, data on stdout, errors as exit codes."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import typer
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
from typer.core import TyperGroup

from histoxai.cli.command import format_group_help
from histoxai.cli.tables import train as training
from histoxai.core.errors import InputRefused, Interrupted, as_histoxai_error
from histoxai.core.progress import Progress, Silent
from histoxai.core.s3_paths import mirror_path, split_argument, with_s3_urls
from histoxai.core.safe_text import escape_message, escape_nested, escape_text
from histoxai.core.signals import RESUME_HINT
from histoxai.settings import Work

_PLAIN_EVERY = 5.0  # seconds between progress lines where stderr is no terminal


class Boundary(TyperGroup):
    """The one place where errors become a line on stderr and an exit code.

    In `invoke` and not in an exception handler, because Typer carries its own Click, so that what we
    raise would escape as a crash.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        format_group_help(self, ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        try:
            ctx.args = _to_mirrors(_as_text(ctx.args))
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as stop:
            _complain(f"{str(stop) or 'interrupted'}; {RESUME_HINT}")
            raise typer.Exit(Interrupted.exit_code) from None
        except BrokenPipeError:
            # `| head` has what it wanted; nothing may complain at interpreter exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            ours = as_histoxai_error(error)
            if ours is None:
                raise
            _complain(str(ours))
            raise typer.Exit(ours.exit_code) from None


def _as_text(words: list[str]) -> list[str]:
    """The words; raises InputRefused for one that is not UTF-8, since commands go on record."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            remedy = "the name is not UTF-8; rename it (`convmv -f latin1 -t utf8`)"
            if sys.getfilesystemencoding() != "utf-8":
                remedy = f"names are {sys.getfilesystemencoding()} to this Python; set PYTHONUTF8=1"
            raise InputRefused(f"{escape_text(word)}: {remedy}") from None
    return words


def _to_mirrors(words: list[str]) -> list[str]:
    """A command's words with each `s3://` place as its folder in the cache, brought up to date.

    Here and not flag by flag: Typer makes paths of them, to which two slashes are one. Variables that stand for flags
    are changed where they are.
    """
    if {"-h", "--help"} & set(words):
        return words
    for name, value in os.environ.items():
        if name.startswith("HISTOXAI_") and value.startswith("s3://"):
            os.environ[name] = _to_mirror("", value)
    return [word if (found := split_argument(word)) is None else _to_mirror(*found) for word in words]


def _to_mirror(before: str, url: str) -> str:
    from histoxai.store.storage.s3_mirror import refresh

    place = mirror_path(url)
    refresh(place)
    return f"{before}{place}"


def use_threads(threads: int | None, workers: int = 1) -> int:
    """Set the number of CPU threads of a process before torch is imported.

    By default SLURM's CPUs, else the usable cores, at most 8; several workers share them.
    """
    if threads is None:
        given = os.environ.get("SLURM_CPUS_PER_TASK", "")
        threads = int(given) if given.isdigit() and int(given) else min(8, _usable_cores())
        threads = max(1, threads // workers)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    return threads


def with_threads(work: Work, processes: int | None = None) -> Work:
    """Set the threads of this process as `use_threads` does; return `work` with their number."""
    return replace(work, threads=use_threads(work.threads or None, processes or work.workers))


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A listener for a stage: a Rich bar on a terminal, plain lines elsewhere, warnings only if quiet."""
    console = Console(stderr=True)
    listener = _Bars(console) if console.is_terminal and not quiet else _Lines(quiet)
    try:
        yield listener
    finally:
        listener.stop()


def emit(value: Any) -> None:
    """Print one strict JSON object (null for NaN) on stdout; as ASCII where stdout takes no UTF-8."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(with_s3_urls(strict(value)), ensure_ascii=ascii_only, allow_nan=False)
    # of a name that is not UTF-8, JSON's own escape
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def strict(value: Any) -> Any:
    """A value as strict JSON can hold it: NaN and infinities become None, numpy numbers plain ones."""
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def out() -> Console:
    """A console for tables on stdout; wide where stdout is a file or a pipe, so that nothing is cut."""
    console = _Out(markup=False)
    return console if console.is_terminal else _Out(width=160, markup=False)


class _Out(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for `Boundary`; Rich would exit with 1


def show(summary: dict[str, Any], json: bool, table: Any) -> None:
    """A stage's summary: one JSON object, or what `table` makes of it."""
    if json:
        emit(summary)
    elif summary.get("dry_run"):
        out().print("checked; nothing written", highlight=False)
    else:
        out().print(table(escape_nested(with_s3_urls(summary))))


def show_all(summary: dict[str, Any], json: bool, tables: Callable[[dict[str, Any]], Iterable[RenderableType]]) -> None:
    """Show a stage's summary: one JSON object, or the tables that `tables` makes of it."""
    if json:
        emit(summary)
    else:
        for table in tables(escape_nested(with_s3_urls(summary))):
            out().print(table)


def show_training(summary: dict[str, Any], json: bool, table: Any) -> None:
    """Show a training's summary, the rate that was found, or all folds together; nothing in another rank."""
    if summary:
        special = {"histoxai.find-lr/1": training.rates, "histoxai.train-cls-folds/1": training.folds}
        show(summary, json, special.get(summary["schema"], table))


def show_work(summary: dict[str, Any], only: str | None, json: bool) -> None:
    """A sharded stage's summary: JSON, the names of shards, or how many were done."""
    if json:
        emit(summary)
    elif only == "check":
        sys.stdout.write("checked; nothing written\n")
    elif only in ("count", "missing"):
        if summary["shards"]:
            sys.stdout.write(summary["shards"] + "\n")
    else:
        done = ", ".join(f"{name} {n}" for name, n in summary["done"].items())
        output = escape_text(with_s3_urls(summary["output"]))
        sys.stdout.write(f"{output}: {summary['patches']} patches; shards done now: {done}\n")


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(
        f"histoxai: {_said(message)}", markup=False, highlight=False, style="red"
    )


def _said(text: str) -> str:
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
            print(_said(message), file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        print(f"warning: {_said(message)}", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Steps per second over the last while."""

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


class _Bars:
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
        self._console.print(_said(message), markup=False, highlight=False)

    def news(self, message: str) -> None:
        self.warn(message)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {_said(message)}", markup=False, highlight=False, style="yellow")
