"""The limit of memory while untrusted data is decoded."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest

from histoxai.core.resources import bounded_memory


def test_the_limit_of_memory_ends_when_the_last_thread_has_left() -> None:
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
