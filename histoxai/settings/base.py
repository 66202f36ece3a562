"""How settings are bounded and checked.

Bounds stand in each field's metadata and are checked when a dataclass is made: `ge`, `gt`, `le`, `lt`
for numbers, `choices` for words. A value out of bounds raises UsageError.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any

from histoxai.errors import UsageError

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
    """Raise UsageError for the first field that lies out of its bounds."""
    for entry in fields(settings):
        value, name = getattr(settings, entry.name), entry.name.replace("_", "-")
        if value is None:
            continue
        choices = entry.metadata.get("choices")
        if choices is not None and value not in choices:
            raise UsageError(f"--{name}: '{value}' is not one of {', '.join(map(str, choices))}")
        for key, (test, words) in _TESTS.items():
            if key in entry.metadata and not test(value, entry.metadata[key]):
                raise UsageError(f"--{name}: {value} must be {words} {entry.metadata[key]}")


class Checked:
    """A dataclass whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        check_bounds(self)
