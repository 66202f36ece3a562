"""The errors that histoxai raises on purpose, and their exit codes.

    HistoxaiError             1  failure: disk full, out of memory, a broken store
    |-- Damaged               1  stored bytes differ from what was written
    |-- UsageError            2  a flag or an option that makes no sense
    |-- InputRefused          3  a file, store or model that this command cannot use
    |   |-- SettingsDiffer    3  the output exists and was made with other settings
    |   `-- ParentChanged     3  an input differs from the one that an earlier stage read
    `-- Incomplete            4  the input has gaps; the message says how to fill them
    KeyboardInterrupt
    `-- Interrupted          75  stopped by a signal, consistent, safe to requeue

The number is the exit code (`exit_code`). A message says what is wrong, where, and what to do next. Where other code
replaces the advice, it is passed apart, as `remedy`.
"""

from __future__ import annotations


class HistoxaiError(Exception):
    """Base of all errors that users are meant to read.

    problem: what is wrong and where. remedy: what to do about it; printed behind the problem.
    """

    exit_code = 1

    def __init__(self, problem: object = "", remedy: str = "") -> None:
        super().__init__(problem, remedy)  # both, so that the error survives pickling
        self.problem, self.remedy = str(problem), remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class Damaged(HistoxaiError):
    """Stored bytes differ from what was written; the message says where, and which command repairs it."""


class UsageError(HistoxaiError):
    """A flag, an option or a combination of options makes no sense."""

    exit_code = 2


class InputRefused(HistoxaiError):
    """An input cannot be used; raised before work starts."""

    exit_code = 3


class SettingsDiffer(InputRefused):
    """The output exists and was made with other settings."""


class ParentChanged(InputRefused):
    """An input differs from the one that an earlier stage read: its digest is another."""


class Incomplete(HistoxaiError):
    """The input is not finished."""

    exit_code = 4


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work in a consistent state.

    It is no `Exception`, so that no handler in between takes it for a failure.
    """

    exit_code = 75


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed in Python or torch.

    On a CPU torch raises a plain RuntimeError, which only its text tells from others.
    """
    texts = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")  # of the CPU, CUDA, cuBLAS and cuDNN
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in str(error) for t in texts))


def as_histoxai_error(error: Exception) -> HistoxaiError | None:
    """Convert memory, import and OS errors to HistoxaiError; None means a bug."""
    if isinstance(error, HistoxaiError):
        return error
    if is_out_of_memory(error):
        return HistoxaiError("out of memory; use a smaller --micro-batch, --batch-size or --shard-size")
    if isinstance(error, ImportError) and any(
        text in str(error) for text in ("failed to map segment", "annot allocate memory")
    ):
        return HistoxaiError("out of memory while libraries are loaded; raise the limit (`ulimit -v`, --mem)")
    if isinstance(error, OSError):
        return HistoxaiError(f"{error.filename or 'system'}: {error.strerror or error}")
    return None
