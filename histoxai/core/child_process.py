"""Start child processes that stop with their parent, obey the same signals and report their errors to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from histoxai.core import provenance, signals
from histoxai.core.errors import HistoxaiError, Interrupted, as_histoxai_error


@dataclass(frozen=True)
class Child:
    """A child process and the parent's end of the pipe to it."""

    pipe: Connection
    process: SpawnProcess

    def failure(self, name: str, remedy: str = "") -> HistoxaiError | Interrupted | None:
        """Describe how the process ended: None while it runs and after success.

        name: how the message calls the process. remedy: what else to do where memory may have run out.
        """
        code = self.process.exitcode
        if code in (None, 0):
            return None
        if code == Interrupted.exit_code:
            return Interrupted(f"{name} was stopped")
        if code < 0:
            return HistoxaiError(f"{name} was killed by signal {-code} (out of memory?); {signals.RESUME_HINT}{remedy}")
        return HistoxaiError(f"{name} failed; see above, and {signals.RESUME_HINT}")


def spawn_context() -> SpawnContext:
    """Return the context that starts fresh interpreters: forks cannot use OpenMP or CUDA after their parent has."""
    # The tracker would warn of semaphores that stopped processes did not release; the system releases them.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    return multiprocessing.get_context("spawn")


def start_child(
    function: Callable[..., None], *arguments: Any, orphaned: signal.Signals = signal.SIGTERM, daemon: bool = False
) -> Child:
    """Run `function(*arguments, pipe)` in a new process; function and arguments are pickled.

    The child sends a HistoxaiError through the pipe before it exits with the error's code. orphaned: the signal that
    the system sends to the child when this process dies. daemon: the child must not start processes itself.
    """
    context = spawn_context()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_run, args=(function, arguments, theirs, orphaned, provenance.command_words()), daemon=daemon
    )
    # Signals wait until the child has its handlers: Ctrl-C reaches the whole process group at once.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
    theirs.close()
    return Child(ours, process)


def end_children(children: Iterable[Child], grace: float = 0.0) -> None:
    """Ask children to stop, and kill those that still run after `grace` seconds; 0 kills them at once."""
    children = list(children)
    for child in children:
        if grace:
            child.process.terminate()
    deadline = time.monotonic() + grace
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.is_alive():
            child.process.kill()
            child.process.join()


def _run(
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    pipe: Connection,
    orphaned: signal.Signals,
    command: Sequence[str],
) -> None:
    provenance.record_command(command)
    try:
        signals.install_handlers()
        signals.die_with_parent(orphaned)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.STOPPING)
        function(*arguments, pipe)
    except KeyboardInterrupt:
        signals.exit_now(Interrupted.exit_code)
    except Exception as error:
        known = as_histoxai_error(error)
        if known is None:
            raise
        signals.ignore()
        with suppress(ConnectionError):  # the parent has ended already
            pipe.send(known)
        signals.exit_now(known.exit_code)
    # Libraries' exit handlers must not run: they would meet the parent's SIGTERM.
    signals.ignore()
    signals.exit_now(0)
