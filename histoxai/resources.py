"""What this process uses of its machine."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Iterator

# address space that threads and arenas of a library may take, bytes
_SPARE = 3 << 30


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
    """Let what is decoded inside take a few times the bytes that it should, and `_SPARE`: a bomb gets no further.

    Compressed chunks do not say how large they become, and libraries take memory until they are done. What asks for
    more gets the error of a full memory. Of address space, since that is what the system can refuse.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        bound = used + 8 * expected + _SPARE
        if soft != resource.RLIM_INFINITY and soft < bound:
            bound = soft
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    except (OSError, ValueError):  # not Linux
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


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
