"""What this process uses of its machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import threading
from collections.abc import Iterator

# address space, bytes: for libraries, and for the stack and the arena of each thread that they may start
_SPARE, _OF_A_THREAD = 3 << 30, 160 << 20


def peak_memory_mb() -> int:
    """Peak resident memory in MiB since the last `reset_peak_memory`, or since the start where that cannot be."""
    # ru_maxrss of a child counts what its parent held when it forked; VmHWM starts anew with the program.
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def reset_peak_memory() -> None:
    """Let the peak start from what is held now, where the system can."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


@contextlib.contextmanager
def bounded_memory(expected: int) -> Iterator[None]:
    """Let what is decoded inside take a few times the bytes that it should, and some to spare: a bomb gets no further.

    Compressed chunks do not say how large they become, and libraries take memory until they are done. What asks for
    more gets the error of a full memory. Of address space, since that is what the system can refuse; threads that are
    inside at once share what they may take together.
    """
    _BOUND.enter(8 * expected)
    try:
        yield
    finally:
        _BOUND.leave(8 * expected)


class _Bound:
    """The process's limit of address space, while anybody is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._taken = threading.Lock(), 0, 0
        self._limits, self._used = (resource.RLIM_INFINITY, resource.RLIM_INFINITY), 0

    def enter(self, size: int) -> None:
        """One more that may take so many bytes."""
        with self._lock:
            if not self._inside:
                self._limits, self._used = resource.getrlimit(resource.RLIMIT_AS), _addresses()
            self._inside += 1
            self._taken += size
            self._set(self._used + self._taken + _SPARE + _OF_A_THREAD * min(36, (os.cpu_count() or 1) + 4))

    def leave(self, size: int) -> None:
        """One is done; the last one puts the limit back."""
        with self._lock:
            self._inside -= 1
            self._taken -= size
            if not self._inside:
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(resource.RLIMIT_AS, self._limits)

    def _set(self, bound: int) -> None:
        soft, hard = self._limits
        if self._used and (soft == resource.RLIM_INFINITY or bound < soft):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


def _addresses() -> int:
    # bytes of address space that this process has; 0 where that cannot be told, and nothing is bounded
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


_BOUND = _Bound()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back after every layer.

    Activations of tens of megabytes are otherwise mapped and unmapped anew at each step: at 224 px the study's
    CNN spent more than half of a training step there (`scripts/bench malloc`). Without glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
