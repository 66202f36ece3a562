"""Memory of this process: its peak, a limit while untrusted data is decoded, and glibc's habits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import threading
from collections.abc import Iterator

# Bytes of address space: for libraries, and for the stack and the arena of each thread that they may start.
_SPARE, _PER_THREAD = 3 << 30, 160 << 20


def peak_memory_mb() -> int:
    """Return the peak resident memory in MiB since `reset_peak_memory`, or since the start where that failed."""
    # ru_maxrss of a child includes its parent's memory at the fork; VmHWM starts anew with the program.
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def reset_peak_memory() -> None:
    """Restart the peak from the memory in use now, where the system allows it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


@contextlib.contextmanager
def bounded_memory(expected: int) -> Iterator[None]:
    """Limit the memory for decoding data of `expected` bytes to a small multiple: stops decompression bombs.

    A compressed chunk does not say how large it becomes. An allocation above the limit raises MemoryError. The limit
    is one of address space, which the system can enforce. Threads inside at once share the sum of their limits.
    """
    _LIMIT.enter(8 * expected)
    try:
        yield
    finally:
        _LIMIT.leave(8 * expected)


class _Limit:
    """The process's limit of address space while any thread is inside `bounded_memory`."""

    def __init__(self) -> None:
        self._lock, self._inside, self._granted = threading.Lock(), 0, 0
        self._limits, self._used = (resource.RLIM_INFINITY, resource.RLIM_INFINITY), 0

    def enter(self, size: int) -> None:
        """Raise the limit by `size` bytes for one more thread."""
        with self._lock:
            if not self._inside:
                self._limits, self._used = resource.getrlimit(resource.RLIMIT_AS), _address_space()
            self._inside += 1
            self._granted += size
            self._set(self._used + self._granted + _SPARE + _PER_THREAD * min(36, (os.cpu_count() or 1) + 4))

    def leave(self, size: int) -> None:
        """End one thread's share; the last thread restores the old limit."""
        with self._lock:
            self._inside -= 1
            self._granted -= size
            if not self._inside:
                with contextlib.suppress(OSError, ValueError):
                    resource.setrlimit(resource.RLIMIT_AS, self._limits)

    def _set(self, limit: int) -> None:
        soft, hard = self._limits
        if self._used and (soft == resource.RLIM_INFINITY or limit < soft):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _address_space() -> int:
    # Bytes of address space in use. 0 where the system does not say; then nothing is limited.
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


_LIMIT = _Limit()


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it to the system after every layer.

    Otherwise activations of tens of megabytes are mapped and unmapped at each step. At 224 px the study's CNN spent
    more than half of a training step on that (`scripts/bench malloc`). Without glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
