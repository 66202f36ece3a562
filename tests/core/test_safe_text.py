"""Words of others: what a terminal may see of them, and that commands in messages stay commands."""

from __future__ import annotations

import resource
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest

from histoxai.core.resources import bounded_memory
from histoxai.core.safe_text import message, printable, told


def test_nothing_steers_a_terminal() -> None:
    assert printable("a\x1b[31mb\x07\x7f\x9b") == "a\\x1b[31mb\\x07\\x7f\\x9b"
    assert printable("a\u202eb\u2066") == "a\\u202eb\\u2066"
    assert printable("na\udcefve") == "na\\udcefve"
    assert printable("Präparat 深\n\tx") == "Präparat 深\n\tx"
    assert told({"a\x1b": ["\x1b", 3, None]}) == {"a\\x1b": ["\\x1b", 3, None]}


def test_long_names_are_cut_and_commands_are_not() -> None:
    command = f"histoxai explain p -o m --shard {','.join(map(str, range(0, 3000, 2)))}"
    said = message(f"{'x' * 70_000}: lacks shards; run `{command}`")
    assert said.endswith(f"`{command}`")
    assert "xxx... (70,001 characters) lacks" in said


@pytest.mark.parametrize("name", ["a\x1b[1mb", "it's\x07", "\u202etxt", "plain name"])
def test_commands_with_odd_names_can_be_pasted(name: str) -> None:
    said = message(f"run `{shlex.join(['printf', '%s', name])}`")
    assert not any(ord(c) < 32 or c == "\u202e" for c in said)
    command = said.removeprefix("run `").removesuffix("`")
    ran = subprocess.run(["bash", "-c", command], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert ran.stdout.decode() == name


def test_the_bound_of_memory_goes_when_the_last_has_left() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)

    def inside(k: int) -> None:
        with bounded_memory(1000):
            sleep(0.01 * (k % 3))
            assert resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(inside, range(40)))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with pytest.raises(MemoryError), bounded_memory(1000):
        np.ones(1 << 40, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
