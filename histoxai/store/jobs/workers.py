"""Share the shards of one command among worker processes: each repeats the stage and asks for one shard at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

from histoxai.core import signals
from histoxai.core.child_process import Child, end_children, start_child
from histoxai.core.errors import HistoxaiError, Interrupted
from histoxai.core.progress import Progress, Silent
from histoxai.settings import Work

# The stage with its inputs bound, which has to survive pickling: rerun(progress=..., work=...) returns its summary.
RerunStage = Callable[..., dict[str, Any]]
_GRACE = signals.GRACE + 1  # seconds for a worker to stop at its next safe point


class ShardQueue:
    """In a worker: iterate over the shard numbers that the parent hands out."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __iter__(self) -> Iterator[int]:
        while True:
            self._pipe.send(("next", None))
            shard = self._pipe.recv()
            if shard is None:
                return
            yield shard


class _RelayedProgress(Silent):
    """In a worker: send progress to the parent, which has shown the stage's information and warnings itself."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._pipe.send(("advance", (steps, note)))

    def news(self, message: str) -> None:
        self._pipe.send(("news", message))


def run_in_workers(rerun: RerunStage, shards: Sequence[int], work: Work, progress: Progress) -> dict[str, int]:
    """Compute shards in `work.workers` processes; return how many were computed, by item name.

    Raises the error of the first worker that fails; the others stop at their next safe point, and finished shards stay.
    """
    queue = list(reversed(shards))
    done: Counter[str] = Counter()
    workers: dict[Connection, Child] = {}
    try:
        for rank in range(min(work.workers, len(shards))):
            child = start_child(_work, rerun, replace(work, rank=rank), daemon=True)
            workers[child.pipe] = child
        while workers:
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                finished = _answer(workers[pipe], queue, progress)
                if finished is not None:
                    done.update(finished)
                    workers.pop(pipe).process.join()
        return dict(done)
    finally:
        end_children(workers.values(), _GRACE)


def _answer(worker: Child, queue: list[int], progress: Progress) -> dict[str, int] | None:
    """Handle one message of a worker; return its number of shards by item name once it has finished."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join(_GRACE)
        remedy = ", with fewer --workers if memory ran out"
        early = HistoxaiError(f"a worker process ended before its work was done; {signals.RESUME_HINT}")
        raise worker.failure("a worker process", remedy) or early from None
    if isinstance(message, HistoxaiError):
        raise message
    kind, value = message
    if kind == "done":
        return value
    if kind == "next":
        worker.pipe.send(queue.pop() if queue else None)
    elif kind == "advance":
        progress.advance(*value)
    else:
        progress.news(value)
    return None


def _work(rerun: RerunStage, work: Work, pipe: Connection) -> None:
    # The parent has discarded the old output already if --force was given.
    own = replace(work, workers=1, shard=None, force=False, feed=ShardQueue(pipe))
    try:
        pipe.send(("done", rerun(progress=_RelayedProgress(pipe), work=own)["done"]))
    except (EOFError, ConnectionError):
        raise Interrupted("the parent process is gone") from None
