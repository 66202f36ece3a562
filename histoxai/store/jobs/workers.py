"""Several worker processes for one command: each runs the stage again and is handed shards one by one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from histoxai.core import signals
from histoxai.core.errors import HistoxaiError, Interrupted, as_histoxai_error
from histoxai.core.progress import Progress, Silent
from histoxai.settings import Work

# The stage with its inputs bound: again(progress=..., work=...) -> its summary. Has to survive pickling.
Again = Callable[..., dict[str, Any]]
_WAIT = signals.GRACE + 1


class Feed:
    """In a worker: the shard numbers that the parent hands out, until it has no more."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __iter__(self) -> Iterator[int]:
        while True:
            self._pipe.send(("next", None))
            shard = self._pipe.recv()
            if shard is None:
                return
            yield shard


class _Relay(Silent):
    """In a worker: passes progress on. The parent has said and warned already what a stage has to say."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._pipe.send(("advance", (steps, note)))

    def news(self, message: str) -> None:
        self._pipe.send(("news", message))


def share_out(again: Again, shards: Sequence[int], work: Work, progress: Progress) -> dict[str, int]:
    """Let `work.workers` processes do these shards; returns how many were done, by item name.

    Raises what a worker raised; the others stop at their next piece, and what is finished is kept.
    """
    # spawn: a fork of a process that has used OpenMP or CUDA cannot use them again
    context = multiprocessing.get_context("spawn")
    # Its tracker would warn of semaphores that stopped workers did not give back; they are gone by themselves.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    todo = list(reversed(shards))
    done: dict[str, int] = {}
    crew: dict[Connection, SpawnProcess] = {}
    try:
        for rank in range(min(work.workers, len(shards))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(again, replace(work, rank=rank), theirs), daemon=True)
            # Until a worker has its handlers, signals wait: Ctrl-C reaches the whole group at once.
            signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
            theirs.close()
            crew[ours] = process
        while crew:
            for pipe in wait(list(crew)):
                assert isinstance(pipe, Connection)
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionError):
                    raise _lost(crew[pipe]) from None
                if kind == "next":
                    pipe.send(todo.pop() if todo else None)
                elif kind == "advance":
                    progress.advance(*value)
                elif kind == "news":
                    progress.news(value)
                elif kind == "error":
                    raise value
                else:
                    for name, count in value.items():
                        done[name] = done.get(name, 0) + count
                    crew.pop(pipe).join()
        return done
    finally:
        _dismiss(list(crew.values()))


def _work(again: Again, work: Work, pipe: Connection) -> None:
    try:
        signals.install_handlers()
        signals.die_with_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
        # the parent has started over already where that was asked for
        mine = replace(work, workers=1, shard=None, force=False, feed=Feed(pipe))
        pipe.send(("done", again(progress=_Relay(pipe), work=mine)["done"]))
    except (KeyboardInterrupt, EOFError, ConnectionError):  # stopped, or the parent is gone
        os._exit(Interrupted.exit_code)
    except Exception as error:
        ours = as_histoxai_error(error)
        if ours is None:
            raise
        signals.ignore()
        pipe.send(("error", ours))
    # Nothing more may run here: what a library does at exit would meet the parent's SIGTERM.
    signals.ignore()
    signals.exit_now(0)


def _lost(process: SpawnProcess) -> HistoxaiError | Interrupted:
    process.join(_WAIT)
    code = process.exitcode
    if code == Interrupted.exit_code:
        return Interrupted("a worker process was stopped")
    if code is not None and code < 0:
        return HistoxaiError(
            f"a worker process was killed by signal {-code} (out of memory?); {signals.RESUME_HINT}, with fewer "
            "--workers if memory ran out"
        )
    return HistoxaiError(f"a worker process failed; see above, and {signals.RESUME_HINT}")


def _dismiss(crew: list[SpawnProcess]) -> None:
    for process in crew:
        process.terminate()
    for process in crew:
        process.join(_WAIT)
        if process.is_alive():
            process.kill()
            process.join()
