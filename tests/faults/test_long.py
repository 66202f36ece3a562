"""Days of work by repetition: the hundredth command in a process takes what the tenth took.

CI repeats six times; HISTOXAI_TEST_ROUNDS says how often.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FAST, Mini

pytestmark = pytest.mark.faults
ROUNDS = int(os.environ.get("HISTOXAI_TEST_ROUNDS", "6"))
MEGABYTES = 30  # what allocators may keep of rounds that are alike

REPEATED = """
import gc, json, os, sys, tempfile, threading
from pathlib import Path
from typer.testing import CliRunner
from histoxai.cli.app import app
rounds, place, commands = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def held():
    status = Path("/proc/self/status").read_text().split("VmRSS:")[1]
    temporary = [*Path(tempfile.gettempdir()).iterdir(), *(p for p in Path(place).rglob(".*"))]
    return [int(status.split()[0]) / 1024, len(os.listdir("/proc/self/fd")), threading.active_count(), len(temporary)]

for _ in range(rounds):
    for words in commands:
        result = CliRunner().invoke(app, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 3), result.output
    gc.collect()
    print(json.dumps(held()), flush=True)
"""


def test_nothing_grows_with_repetition(mini: Mini, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    found: list[list[object]] = [
        ["ingest", mini.diagset, "-o", tmp_path / "p", "--classes", "A,N,R1", "--force"],
        ["augment", tmp_path / "p", "-o", tmp_path / "b", "--force"],
        ["masks", mini.balanced, "--model", mini.seg, "-o", tmp_path / "k", "--force"],
        ["predict", mini.patches, "--model", mini.cls, "-o", tmp_path / "q", "--force"],
        ["explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m", "--per-class", 2, *FAST, "--force"],
        ["score", tmp_path / "m", "--masks", tmp_path / "k", "-o", tmp_path / "s", "--force", "--repetitions", 100],
        ["report", tmp_path / "s", "-o", tmp_path / "r", "--force", "--examples", 2, "--workers", 1],
        ["info", tmp_path / "m", "--verify"],
        ["info", tmp_path / "nothing"],
    ]
    words = json.dumps([[*map(str, command)] for command in found])
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    # zarr's pool takes on threads whenever more reads overlap than ever before; a pool of one is full from the start
    environ["ZARR_THREADING__MAX_WORKERS"] = "1"
    ran = subprocess.run(
        [sys.executable, "-c", REPEATED, str(ROUNDS), str(tmp_path), words],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    rounds = [json.loads(line) for line in ran.stdout.splitlines()]
    early, late = rounds[len(rounds) // 3 - 1 : len(rounds) // 2], rounds[-len(rounds) // 4 :]
    print(f"{ROUNDS} rounds: first {rounds[0]}, a third {early[0]}, last {late[-1]}")
    assert min(r[0] for r in late) <= max(r[0] for r in early) + MEGABYTES, rounds
    for k, what in ((1, "open files"), (2, "threads"), (3, "temporary files")):
        assert min(r[k] for r in late) <= max(r[k] for r in early), (what, rounds)
