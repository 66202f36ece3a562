"""Launch the other ranks of a training run on one node.

Fabric's own launcher kills the main process when a rank fails, and torchrun answers SIGTERM with exit code 1 and a
traceback; this one exits with 75 after a checkpoint, and reports one error. Under srun and torchrun it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from histoxai.core.child_process import Child, end_children, start_child
from histoxai.core.errors import HistoxaiError, Interrupted
from histoxai.train.ranks import LAUNCHED, Ranks, environment

# The training stage with its inputs bound, which every further rank runs. Has to survive pickling.
RerunStage = Callable[[], Any]
_POLL = 0.5  # seconds between checks of the other ranks
_GRACE = 5.0  # seconds for the other ranks to end by themselves


class OtherRankFailed(HistoxaiError):
    """Another rank has failed and reports the error itself."""


@contextmanager
def launch_ranks(ranks: Ranks, rerun: RerunStage) -> Iterator[None]:
    """Run ranks 1 and up as child processes while the body runs as rank 0; none is left at the end.

    Raises the error of a rank that failed, and HistoxaiError where a rank was killed.
    """
    if not ranks.launch:
        yield
        return
    children: list[Child] = []
    try:
        with environment(**_rendezvous(ranks)):
            for rank in range(1, ranks.per_node):
                with environment(RANK=rank, LOCAL_RANK=rank):
                    children.append(start_child(_run_rank, rerun, orphaned=signal.SIGKILL))
            with _watched(children):
                yield
        for child in children:
            child.process.join(_GRACE)
    except (OtherRankFailed, RuntimeError) as error:
        # a collective operation raises RuntimeError when the process at its other end has died
        if failure := _failure(children):
            raise failure from error
        raise
    finally:
        end_children(children)


def _rendezvous(ranks: Ranks) -> dict[str, object]:
    return {
        LAUNCHED: 1,
        "MASTER_ADDR": ranks.address,
        "MASTER_PORT": _free_port(),
        "WORLD_SIZE": ranks.world,
        "LOCAL_WORLD_SIZE": ranks.per_node,
        "NODE_RANK": 0,
    }


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _run_rank(rerun: RerunStage, pipe: Connection) -> None:
    del pipe  # carries errors alone
    rerun()


@contextmanager
def _watched(children: list[Child]) -> Iterator[None]:
    # Collective operations on GPUs wait for a dead process until somebody ends them.
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(children, finished), name="rank watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        finished.set()
        watch.join()


def _watch(children: list[Child], finished: threading.Event) -> None:
    while not finished.wait(_POLL):
        failed = any(c.process.exitcode not in (None, 0, Interrupted.exit_code) for c in children)
        if failed and not finished.wait(2 * _GRACE):
            error = _failure(children)
            for child in children:
                child.process.kill()
            error = error or HistoxaiError("another process of this training failed; see above")
            os.write(2, f"histoxai: {error}\n".encode())
            os._exit(error.exit_code)


def _failure(children: list[Child]) -> HistoxaiError | None:
    """Wait for the error of a rank or for its death by a signal; None where all go on or ended well."""
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
        for rank, child in enumerate(children, 1):
            if error := _reported(child, f"process {rank} of {len(children) + 1}"):
                return error
        if all(child.process.exitcode is not None for child in children):
            break
        time.sleep(_POLL / 10)
    return None


def _reported(child: Child, name: str) -> HistoxaiError | None:
    with contextlib.suppress(EOFError, ConnectionError):
        if child.pipe.poll():
            error = child.pipe.recv()
            if not isinstance(error, OtherRankFailed):
                return error
    code = child.process.exitcode
    failure = child.failure(name) if code is not None and code < 0 else None
    return failure if isinstance(failure, HistoxaiError) else None
