"""The other processes of a training with several devices on one node: each runs the stage again as its rank.

Under srun and torchrun they are there already, and none of this is used.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from histoxai.core import signals
from histoxai.core.errors import HistoxaiError, Interrupted, as_histoxai_error
from histoxai.train.ranks import CREW, Placement, environment

# The stage with its inputs bound. Has to survive pickling.
Again = Callable[[], Any]
_LOOK = 0.5  # seconds between looks at the others
_ENDING = 5.0  # that they get to end by themselves


class Elsewhere(HistoxaiError):
    """Another process has met the error, and says which."""


@contextmanager
def crew(place: Placement, again: Again) -> Iterator[None]:
    """Start ranks 1 and up of `place`, be rank 0 inside, and see that none is left at the end.

    Raises what one of them raised, and HistoxaiError where one was killed.
    """
    if not place.launch:
        yield
        return
    # spawn: a fork of a process that has used OpenMP or CUDA cannot use them again
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    address = {
        CREW: 1,
        "MASTER_ADDR": place.address,
        "MASTER_PORT": _free_port(),
        "WORLD_SIZE": place.world,
        "LOCAL_WORLD_SIZE": place.per_node,
        "NODE_RANK": 0,
    }
    members: list[tuple[Connection, SpawnProcess]] = []
    with environment(**address):
        try:
            for rank in range(1, place.per_node):
                ours, theirs = context.Pipe()
                process = context.Process(target=_member, args=(again, theirs))
                # Until it has its handlers, signals wait: Ctrl-C reaches the whole group at once.
                signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
                try:
                    with environment(RANK=rank, LOCAL_RANK=rank):
                        process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
                theirs.close()
                members.append((ours, process))
            with _watched(members):
                yield
            for _, process in members:
                process.join(_ENDING)
        except (Elsewhere, RuntimeError) as error:
            # a collective operation fails here when the process at its other end does
            raise _what_happened(members) or error from error
        finally:
            for _, process in members:
                if process.is_alive():
                    process.kill()
                process.join()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _member(again: Again, pipe: Connection) -> None:
    try:
        signals.install_handlers()
        signals.die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
        again()
    except KeyboardInterrupt:
        signals.exit_now(Interrupted.exit_code)
    except Exception as error:
        ours = as_histoxai_error(error)
        if ours is None:
            raise
        pipe.send(ours)
        signals.exit_now(ours.exit_code)
    signals.ignore()
    signals.exit_now(0)


@contextmanager
def _watched(members: list[tuple[Connection, SpawnProcess]]) -> Iterator[None]:
    # Collective operations on GPUs wait for a process that is gone until somebody ends them.
    over = threading.Event()
    watch = threading.Thread(target=partial(_watch, members, over), name="crew watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(members: list[tuple[Connection, SpawnProcess]], over: threading.Event) -> None:
    while not over.wait(_LOOK):
        lost = [p.exitcode for _, p in members if p.exitcode not in (None, 0, Interrupted.exit_code)]
        if lost and not over.wait(2 * _ENDING):
            error = _what_happened(members)
            for _, process in members:
                process.kill()
            error = error or HistoxaiError("another process of this training failed; see above")
            os.write(2, f"histoxai: {error}\n".encode())
            os._exit(error.exit_code)


def _what_happened(members: list[tuple[Connection, SpawnProcess]]) -> HistoxaiError | None:
    """What a member raised, or that it was killed; None where all go on or ended well."""
    deadline = time.monotonic() + _ENDING
    while time.monotonic() < deadline:
        for rank, (pipe, process) in enumerate(members, 1):
            with contextlib.suppress(EOFError, ConnectionError):
                if pipe.poll():
                    found = pipe.recv()
                    if not isinstance(found, Elsewhere):
                        return found
            if process.exitcode is not None and process.exitcode < 0:
                return HistoxaiError(
                    f"process {rank} of {len(members) + 1} was killed by signal {-process.exitcode} (out of memory?); "
                    f"{signals.RESUME_HINT}"
                )
        if all(p.exitcode is not None for _, p in members):
            break
        time.sleep(_LOOK / 10)
    return None
