"""Talk to the shell: data on stdout, errors as one line on stderr and an exit code."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from histoxai.cli.command import format_group_help
from histoxai.cli.progress_display import safe
from histoxai.cli.tables import train as training
from histoxai.core.errors import InputRefused, Interrupted, as_histoxai_error
from histoxai.core.s3_paths import mirror_path, split_argument, with_s3_urls
from histoxai.core.safe_text import escape_nested, escape_text
from histoxai.core.signals import RESUME_HINT
from histoxai.settings import Work


class Boundary(TyperGroup):
    """Convert errors to a line on stderr and an exit code.

    It overrides `invoke`, since Typer carries its own Click: our exceptions would pass its handlers and end as a crash.
    """

    def get_usage(self, ctx: Any) -> str:
        return f"Usage: {ctx.command_path} COMMAND [OPTIONS]"

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
    """Return the words; raise InputRefused for one that is not UTF-8, since commands go on record."""
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
    """Replace each `s3://` URL in a command's words by its folder in the cache, brought up to date.

    This is done before Typer makes paths of them, to which two slashes are one. Variables that stand for options are
    changed where they are.
    """
    if {"-h", "--help"} & set(words):
        return words
    for name, value in os.environ.items():
        if name.startswith("HISTOXAI_") and value.startswith("s3://"):
            os.environ[name] = _to_mirror("", value)
    return [word if (parts := split_argument(word)) is None else _to_mirror(*parts) for word in words]


def _to_mirror(before: str, url: str) -> str:
    from histoxai.store.storage.s3_mirror import refresh

    path = mirror_path(url)
    refresh(path)
    return f"{before}{path}"


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


def emit(value: Any) -> None:
    """Print one strict JSON object (null for NaN) on stdout; as ASCII where stdout takes no UTF-8."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(with_s3_urls(strict(value)), ensure_ascii=ascii_only, allow_nan=False)
    # JSON escapes a name that is not UTF-8
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def strict(value: Any) -> Any:
    """Return a value as strict JSON holds it: NaN and infinities become None, numpy numbers plain ones."""
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
    """Return a console for tables on stdout; wide where stdout is a file or a pipe, so that nothing is cut."""
    console = _Out(markup=False)
    return console if console.is_terminal else _Out(width=160, markup=False)


class _Out(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # for `Boundary`; Rich would exit with 1


def show(summary: Mapping[str, Any], json: bool, draw: Callable[[Any], Any]) -> None:
    """Show a stage's summary: one JSON object, or the table or list of tables that `draw` makes of it."""
    if json:
        emit(summary)
    elif summary.get("dry_run"):
        out().print("checked; nothing written", highlight=False)
    else:
        tables = draw(escape_nested(with_s3_urls(summary)))
        for table in tables if isinstance(tables, list) else [tables]:
            out().print(table)


def show_training(summary: Mapping[str, Any], json: bool, table: Any) -> None:
    """Show a training's summary, the suggested learning rate, or all folds together; nothing in another rank."""
    if summary:
        special = {"histoxai.find-lr/1": training.rates, "histoxai.train-cls-folds/1": training.folds}
        show(summary, json, special.get(summary["schema"], table))


def show_work(summary: Mapping[str, Any], only: str | None, json: bool) -> None:
    """Show a sharded stage's summary: JSON, the numbers of shards, or how many were done."""
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
    Console(stderr=True, soft_wrap=True).print(f"histoxai: {safe(message)}", markup=False, highlight=False, style="red")
