"""One command in a child that may hang, die or take all memory: what came of it."""

from __future__ import annotations

import gc
import os
import re
import resource
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.faults.crowd import context
from tests.fuzz import limits


@dataclass(frozen=True)
class Outcome:
    """What a command left.

    code: its exit code; None where it hung, died, or raised. harm: then what it was, else empty. megabytes: how far
    memory grew.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    megabytes: float
    harm: str = ""

    @property
    def signature(self) -> str:
        """The kind of outcome: the message without names and numbers."""
        last = self.err.strip().splitlines()[-1] if self.err.strip() else ""
        text = re.sub(r"/\S*|'[^']*'|\([^)]*\)|`[^`]*`|[0-9]+|[^\x20-\x7e]", "#", last)
        return f"{self.code} {text[:120]}"


class Trier:
    """A child that runs commands one after the other; one that hung or died is replaced."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __call__(self, words: list[object], environ: dict[str, str] | None = None) -> Outcome:
        if self._process is None:
            self._pipe, theirs = context().Pipe()
            self._process = context().Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        assert self._pipe is not None
        started = time.monotonic()
        self._pipe.send(([str(w) for w in words], environ or {}))
        try:
            if not self._pipe.poll(limits.SECONDS + 60 * (self._fresh())):
                self.close()
                return Outcome(None, "", "", time.monotonic() - started, 0, f"hangs for {limits.SECONDS} s")
            found: Outcome = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            return Outcome(None, "", "", time.monotonic() - started, 0, f"the process died ({code})")
        return found

    def _fresh(self) -> bool:
        # the first command waits for the server to import everything
        fresh, self._used = not getattr(self, "_used", False), True
        return fresh

    def close(self) -> None:
        """End the child."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + limits.ADDRESSES, now + limits.ADDRESSES))
    while True:
        try:
            words, environ = pipe.recv()
        except EOFError:
            return
        pipe.send(_one(words, environ))


def _one(words: list[str], environ: dict[str, str]) -> Outcome:
    from unittest import mock

    from tests.conftest import run

    before, started = _peak(reset=True), time.monotonic()
    harm, code, out, err = "", None, "", ""
    try:
        with mock.patch.dict(os.environ, environ):
            done = run(*words, "--threads", 1) if words[0] != "info" else run(*words)
        code, out, err = done.code, done.out, done.err
    except BaseException as error:
        harm = "".join(traceback.format_exception(error))[-3000:]
    seconds, megabytes = time.monotonic() - started, _peak() - before
    gc.collect()
    return Outcome(code, out, err, seconds, megabytes, harm)


def _peak(reset: bool = False) -> float:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def judged(outcome: Outcome, allowed: tuple[int, ...]) -> str:
    """What is wrong with an outcome, in a line or more; empty where it is as documented."""
    said = outcome.err.strip().splitlines()
    if outcome.harm:
        return outcome.harm
    if outcome.code not in allowed:
        return f"exit code {outcome.code}: {outcome.err}"
    if "Traceback" in outcome.err:
        return outcome.err
    if outcome.code and not any(line.startswith("histoxai: ") for line in said) and "Usage:" not in outcome.err:
        return f"exit code {outcome.code} and no message: {outcome.err!r}"
    if "out of memory" in outcome.err:
        return f"memory was asked for before the input was refused: {outcome.err}"
    if outcome.megabytes > limits.MEGABYTES:
        return f"memory grew by {outcome.megabytes:.0f} MB: {outcome.err}"
    if outcome.seconds > limits.SECONDS:
        return f"took {outcome.seconds:.0f} s"
    if any(ord(c) < 32 and c not in "\n\t\r" for c in outcome.err):
        return f"control characters on the terminal: {outcome.err!r}"
    return ""


def describe(words: list[Any]) -> str:
    """A command as a person would type it."""
    return " ".join(map(str, words))
