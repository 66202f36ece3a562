"""Being stopped: SIGTERM, SIGINT and SIGUSR1 end the work at the next safe point, and soon.

A stopped task raises Interrupted wherever it is; what it was computing is dropped, what is finished is kept.
Two things could swallow that: a destructor, in which Python only prints exceptions (so `check` is called
between pieces of work), and a long call into native code, which no exception reaches. Stores are consistent
at every moment, so a thread that the signal wakes ends the process after GRACE seconds if nothing else has.
Training is another matter: `held` lets it end its step and write a checkpoint first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from histoxai.core.errors import Interrupted

# Seconds; schedulers wait 30 before they kill, and we promise 10.
GRACE = 8.0
# The same for training, which has gigabytes to write where a network is large.
TRAINING_GRACE = 25.0
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
KEPT = "what is finished is kept: run the same command again to go on"

_received: list[str] = []
_held: list[float] = []


@contextmanager
def held(grace: float) -> Iterator[None]:
    """Inside, a signal waits for `check` instead of breaking in, for at most `grace` seconds."""
    _held.append(grace)
    try:
        yield
    finally:
        _held.pop()


def catch() -> None:
    """Install the handlers; once per process, in the main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    # Written by C at once, even where the interpreter is stuck in native code.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="signal watch", daemon=True).start()
    for number in STOPPING:
        signal.signal(number, _stop)
    os.register_at_fork(after_in_child=_forget)


def check() -> None:
    """Raise Interrupted where a signal came in; called between pieces of work."""
    if _received:
        raise Interrupted(_received[0])


def received() -> bool:
    """Whether a signal to stop came in."""
    return bool(_received)


def ignore() -> None:
    """From here on the process is ending: no signal changes how."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Where the parent is killed nobody waits for us: the system sends this signal then (PR_SET_PDEATHSIG)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(number))


def _stop(number: int, frame: Any) -> None:
    del frame
    _received.append(f"stopped by {signal.Signals(number).name}")
    # Schedulers and fingers repeat themselves: only the first may break in, or it would meet our own clean-up.
    if len(_received) == 1 and not _held:
        raise Interrupted(_received[0])


def _watch(handle: int) -> None:
    while True:
        numbers = os.read(handle, 1)
        if numbers and numbers[0] in STOPPING:
            break
    time.sleep(_held[-1] if _held else GRACE)
    os.write(2, f"histoxai: stopped by {signal.Signals(numbers[0]).name}; {KEPT}\n".encode())
    os._exit(Interrupted.exit_code)


def _forget() -> None:
    # A forked worker of a library must neither raise our exceptions nor wake our watch.
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)


def exit_now(code: int) -> None:
    """End the process without running anything more; what was printed is flushed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
