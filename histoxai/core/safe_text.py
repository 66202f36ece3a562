"""Words of others that a terminal, a list or a page can take: names come from files, and files from anybody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from histoxai.core.errors import InputRefused

# control characters but tab and line feed, what turns the direction of a line, line and paragraph separators
_UNSEEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONG = 1000  # characters without a space
_WORD = re.compile(rf"\S{{{_LONG},}}")


def printable(text: object) -> str:
    """Text for messages and lists: what would steer a terminal as `\\x1b`, bytes that are no UTF-8 as `\\udcff`."""
    return _UNSEEN.sub(_escaped, str(text).encode("utf-8", "backslashreplace").decode())


def message(text: str) -> str:
    """`printable` of a whole message: commands in it, between backticks, can be pasted; other long words are cut."""
    parts = text.split("`")
    for k, part in enumerate(parts):
        if k % 2 and k < len(parts) - 1:  # shlex has such characters in single quotes
            parts[k] = printable(_UNSEEN.sub(lambda match: f"'$'{_escaped(match)}''", part))
        else:
            parts[k] = _WORD.sub(_cut, printable(part))
    return "`".join(parts)


def told(value: Any) -> Any:
    """`printable` of every text in nested lists and dicts."""
    if isinstance(value, dict):
        return {told(k): told(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(told(v) for v in value)
    return printable(value) if isinstance(value, str) else value


def require_lines(names: Mapping[str, Iterable[str]], where: str = "") -> None:
    """Raise InputRefused for the first name with a line break; messages could seem to say anything."""
    for what, given in names.items():
        if (broken := next((name for name in given if "\n" in name), None)) is not None:
            raise InputRefused(
                f"{where}{what} {str(broken)!r}: a line break in a name would break lists and messages; rename it"
            )


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _cut(match: re.Match[str]) -> str:
    return f"{match[0][:80]}... ({len(match[0]):,} characters)"
