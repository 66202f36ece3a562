"""How settings are bounded and checked.

Bounds stand in each field's metadata and are checked when a dataclass is made: `ge`, `gt`, `le`, `lt`
for numbers, `choices` for words. A value out of bounds raises UsageError, as infinities and integers of more than 31
bits do.
"""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any

from histoxai.core.errors import UsageError

_LARGEST = 2**31 - 1
MOST_ROWS_OF_A_SHARD = 1_000_000  # its index takes 16 bytes for each
MOST_ROWS_OF_A_PASS = 65_536
_TESTS = {
    "ge": (lambda v, b: v >= b, "at least"),
    "gt": (lambda v, b: v > b, "more than"),
    "le": (lambda v, b: v <= b, "at most"),
    "lt": (lambda v, b: v < b, "less than"),
}


def bounded(default: Any, **bounds: Any) -> Any:
    """A dataclass field with a default and bounds (`ge`, `gt`, `le`, `lt`, `choices`)."""
    return field(default=default, metadata=bounds)


def check_bounds(settings: Any) -> None:
    """Raise UsageError for the first field that lies out of its bounds, or is a number that no machine counts with."""
    for entry in fields(settings):
        value, name = getattr(settings, entry.name), entry.name.replace("_", "-")
        if value is None:
            continue
        choices = entry.metadata.get("choices")
        if choices is not None and value not in choices:
            raise UsageError(f"--{name}: '{value}' is not one of {', '.join(map(str, choices))}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name}: {value} must be finite")
        if isinstance(value, int) and abs(value) > _LARGEST and name != "seed":
            raise UsageError(f"--{name}: {value} must be at most {_LARGEST}")
        for key, (test, words) in _TESTS.items():
            if key in entry.metadata and not test(value, entry.metadata[key]):
                raise UsageError(f"--{name}: {value} must be {words} {entry.metadata[key]}")


class Checked:
    """A dataclass whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        check_bounds(self)
