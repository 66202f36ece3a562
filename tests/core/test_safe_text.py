"""Untrusted text: nothing in it steers a terminal, and commands in messages stay commands."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from histoxai.core.safe_text import escape_message, escape_nested, escape_text


def test_nothing_steers_a_terminal() -> None:
    assert escape_text("a\x1b[31mb\x07\x7f\x9b") == "a\\x1b[31mb\\x07\\x7f\\x9b"
    assert escape_text("a\u202eb\u2066") == "a\\u202eb\\u2066"
    assert escape_text("na\udcefve") == "na\\udcefve"
    assert escape_text("Präparat 深\n\tx") == "Präparat 深\n\tx"
    assert escape_nested({"a\x1b": ["\x1b", 3, None]}) == {"a\\x1b": ["\\x1b", 3, None]}


def test_long_names_are_cut_and_commands_are_not() -> None:
    command = f"histoxai explain p -o m --shard {','.join(map(str, range(0, 3000, 2)))}"
    escaped = escape_message(f"{'x' * 70_000}: lacks shards; run `{command}`")
    assert escaped.endswith(f"`{command}`")
    assert "xxx... (70,001 characters) lacks" in escaped


@pytest.mark.parametrize("name", ["a\x1b[1mb", "it's\x07", "\u202etxt", "plain name"])
def test_commands_with_odd_names_can_be_pasted(name: str) -> None:
    escaped = escape_message(f"run `{shlex.join(['printf', '%s', name])}`")
    assert not any(ord(c) < 32 or c == "\u202e" for c in escaped)
    command = escaped.removeprefix("run `").removesuffix("`")
    ran = subprocess.run(["bash", "-c", command], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert ran.stdout.decode() == name
