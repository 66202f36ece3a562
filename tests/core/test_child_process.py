"""Child processes: their errors, their signals, and that none is left behind."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection

import pytest

from histoxai.core.child_process import Child, end_children, start_child
from histoxai.core.errors import HistoxaiError, InputRefused, Interrupted


def _answers(number: int, pipe: Connection) -> None:
    pipe.send(number + 1)


def _refuses(pipe: Connection) -> None:
    raise InputRefused("x.npy: is no patch")


def _lacks_memory(pipe: Connection) -> None:
    raise MemoryError


def _is_wrong(pipe: Connection) -> None:
    raise AssertionError("a bug")


def _waits(pipe: Connection) -> None:
    pipe.send("ready")
    time.sleep(60)


def ended(child: Child) -> int | None:
    child.process.join(60)
    return child.process.exitcode


def test_results_and_errors_come_through_the_pipe() -> None:
    answers, refuses, lacks, wrong = (
        start_child(_answers, 1),
        start_child(_refuses),
        start_child(_lacks_memory),
        start_child(_is_wrong),
    )
    assert answers.pipe.recv() == 2
    error = refuses.pipe.recv()
    assert (type(error), str(error)) == (InputRefused, "x.npy: is no patch")
    assert "out of memory; use a smaller --micro-batch" in str(lacks.pipe.recv())
    with pytest.raises(EOFError):
        wrong.pipe.recv()
    assert [ended(child) for child in (answers, refuses, lacks, wrong)] == [0, 3, 1, 1]
    assert answers.failure("it") is None
    assert str(wrong.failure("the worker")).startswith("the worker failed; see above")


def test_signals_end_a_child() -> None:
    stopped, killed, left = start_child(_waits), start_child(_waits, daemon=True), start_child(_waits)
    assert [child.pipe.recv() for child in (stopped, killed, left)] == ["ready"] * 3
    assert stopped.failure("it") is None
    assert stopped.process.pid
    assert killed.process.pid
    os.kill(stopped.process.pid, signal.SIGTERM)
    os.kill(killed.process.pid, signal.SIGKILL)
    assert [ended(child) for child in (stopped, killed)] == [75, -9]
    assert isinstance(stopped.failure("the worker"), Interrupted)
    failure = killed.failure("the worker", ", with less")
    assert isinstance(failure, HistoxaiError)
    assert str(failure).startswith("the worker was killed by signal 9 (out of memory?); ")
    assert str(failure).endswith(", with less")
    end_children([left], grace=30)
    assert left.process.exitcode == 75
    end_children([left])


def _starts_another(orphaned: signal.Signals, pipe: Connection) -> None:
    child = start_child(_waits, orphaned=orphaned)
    child.pipe.recv()
    pipe.send(child.process.pid)
    time.sleep(60)


@pytest.mark.parametrize("orphaned", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_its_parent(orphaned: signal.Signals) -> None:
    parent = start_child(_starts_another, orphaned)
    grandchild = parent.pipe.recv()
    end_children([parent])
    deadline = time.monotonic() + 30
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
