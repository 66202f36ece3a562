"""Signal handling: SIGTERM, SIGINT and SIGUSR1 end the work at the next safe point.

The handler raises Interrupted. Unfinished results are dropped, finished ones stay. Two things can swallow the
exception. In a destructor Python only prints it; so `check` is called between pieces of work. A long call into native
code never sees it; so a watchdog thread ends the process after GRACE seconds. Stores are consistent at every moment,
which makes that safe. Training uses `deferred` to finish its step and write a checkpoint first.
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

# Seconds. Schedulers wait 30 before they kill; the documentation promises 10.
GRACE = 8.0
# Seconds for training, which may have gigabytes to write.
TRAINING_GRACE = 25.0
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# What users read when work stops before its end.
RESUME_HINT = "what is finished is kept: run the same command again to go on"

_received: list[str] = []  # text of each signal, in order
_deferred: list[float] = []  # seconds of grace of each open `deferred`


@contextmanager
def deferred(grace: float) -> Iterator[None]:
    """Inside, let a signal wait for `check` instead of raising at once, for at most `grace` seconds."""
    _deferred.append(grace)
    try:
        yield
    finally:
        _deferred.pop()


def install_handlers() -> None:
    """Install the signal handlers and the watchdog thread; once per process, in the main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    # C code writes to this pipe at once, even where the interpreter is stuck in native code.
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read,), name="signal watchdog", daemon=True).start()
    for number in STOPPING:
        signal.signal(number, _stop)
    os.register_at_fork(after_in_child=_reset_after_fork)


def check() -> None:
    """Raise Interrupted if a signal was received; called between pieces of work."""
    if _received:
        raise Interrupted(_received[0])


def stop_requested() -> bool:
    """Return whether a signal to stop was received."""
    return bool(_received)


def ignore() -> None:
    """Ignore further signals: the process is ending already."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to send this process a signal when its parent dies (PR_SET_PDEATHSIG)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, int(number))


def _stop(number: int, frame: Any) -> None:
    del frame
    _received.append(f"stopped by {signal.Signals(number).name}")
    # Schedulers and users repeat signals: only the first raises, since a later one could interrupt the clean-up.
    if len(_received) == 1 and not _deferred and not _torch_is_starting():
        raise Interrupted(_received[0])


def _torch_is_starting() -> bool:
    # C++ calls Python while torch is imported, and an exception there aborts the process; `check` raises it later
    return bool(getattr(getattr(sys.modules.get("torch"), "__spec__", None), "_initializing", False))


def _watch(handle: int) -> None:
    while True:
        numbers = os.read(handle, 1)
        if numbers and numbers[0] in STOPPING:
            break
    time.sleep(_deferred[-1] if _deferred else GRACE)
    os.write(2, f"histoxai: stopped by {signal.Signals(numbers[0]).name}; {RESUME_HINT}\n".encode())
    os._exit(Interrupted.exit_code)


def _reset_after_fork() -> None:
    # A forked worker of a library must neither raise Interrupted nor wake the watchdog.
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)


def exit_now(code: int) -> None:
    """Flush the output and end the process at once, without exit handlers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
