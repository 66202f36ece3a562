"""Everything histoxai raises on purpose.

    HistoxaiError             1  failure: disk full, out of memory, a broken store
    |-- Damaged               1  stored bytes are not those that were written
    |-- UsageError            2  a flag or an option that makes no sense
    |-- InputRefused          3  a file, store or model that this command cannot use
    |   |-- SettingsDiffer    3  the output exists and was made with other settings
    |   `-- ParentChanged     3  an input is not the one that an earlier stage read
    `-- Incomplete            4  the input has gaps; the message says how to fill them
    KeyboardInterrupt
    `-- Interrupted          75  stopped by a signal, consistent, safe to requeue

The number is the exit code (`exit_code`). A message says what is wrong, where, and what to do next.
"""

from __future__ import annotations


class HistoxaiError(Exception):
    """Base of all errors that users are meant to read."""

    exit_code = 1


class Damaged(HistoxaiError):
    """Stored bytes are not those that were written; the message says where, and which command remakes them."""


class UsageError(HistoxaiError):
    """A flag, an option or a combination of them that makes no sense."""

    exit_code = 2


class InputRefused(HistoxaiError):
    """An input that cannot be used, found before work starts."""

    exit_code = 3


class SettingsDiffer(InputRefused):
    """The output exists and was made with other settings."""


class ParentChanged(InputRefused):
    """An input is no longer the one that an earlier stage read."""


class Incomplete(HistoxaiError):
    """The input is not finished."""

    exit_code = 4


class Interrupted(KeyboardInterrupt):
    """Stopped by a signal in a consistent state; no Exception, so that no handler in between takes it for damage."""

    exit_code = 75


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: Python's, or torch's by its words, for it has an own error for GPUs only."""
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")  # the CPU's, CUDA's, cuBLAS' and cuDNN's
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def for_users(error: Exception) -> HistoxaiError | None:
    """What the system refused, as an error that users are meant to read; None for a bug of ours."""
    if isinstance(error, HistoxaiError):
        return error
    if is_out_of_memory(error):
        return HistoxaiError("out of memory; use a smaller --micro-batch, --batch-size or --shard-size")
    if isinstance(error, ImportError) and any(
        w in str(error) for w in ("failed to map segment", "annot allocate memory")
    ):
        return HistoxaiError("out of memory while libraries are loaded; raise the limit (`ulimit -v`, --mem)")
    if isinstance(error, OSError):
        return HistoxaiError(f"{error.filename or 'system'}: {error.strerror or error}")
    return None
