"""Make untrusted text safe to print: names come from files, and anybody can write a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from histoxai.core.errors import InputRefused

# Control characters except tab and line feed, direction overrides, and line and paragraph separators.
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONG = 1000  # characters without a space
_LONG_WORD = re.compile(rf"\S{{{_LONG},}}")


def escape_text(text: object) -> str:
    """Return text for a terminal: control characters become `\\x1b`, bytes that are not UTF-8 become `\\udcff`."""
    return _CONTROL.sub(_escape_sequence, str(text).encode("utf-8", "backslashreplace").decode())


def escape_message(text: str) -> str:
    """Escape a whole message and shorten its long words; commands between backticks can still be pasted."""
    parts = text.split("`")
    for k, part in enumerate(parts):
        is_command = k % 2 and k < len(parts) - 1
        if is_command:  # shlex puts names with such characters in single quotes
            parts[k] = escape_text(_CONTROL.sub(lambda match: f"'$'{_escape_sequence(match)}''", part))
        else:
            parts[k] = _LONG_WORD.sub(_shortened, escape_text(part))
    return "`".join(parts)


def escape_nested(value: Any) -> Any:
    """Apply `escape_text` to every string in nested lists, tuples and dicts."""
    if isinstance(value, dict):
        return {escape_nested(k): escape_nested(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(escape_nested(v) for v in value)
    return escape_text(value) if isinstance(value, str) else value


def require_single_line(names: Mapping[str, Iterable[str]], where: str = "") -> None:
    """Raise InputRefused for the first name with a line break, which could forge lines of lists and messages.

    names: kind of name -> the names. where: prefix of the message, such as the store's path.
    """
    for kind, values in names.items():
        if (broken := next((name for name in values if "\n" in name), None)) is not None:
            raise InputRefused(
                f"{where}{kind} {str(broken)!r}: a line break in a name would break lists and messages; rename it"
            )


def _escape_sequence(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _shortened(match: re.Match[str]) -> str:
    return f"{match[0][:80]}... ({len(match[0]):,} characters)"
