"""A disk that fills up, a mount that cannot be written: a clear error, and a rerun that completes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CLASSES, FAST, Mini, array_files, done, run

pytestmark = pytest.mark.faults
BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def commands(mini: Mini, output: Path) -> dict[str, list[object]]:
    return {
        "ingest": ["ingest", mini.diagset, "-o", output, "--classes", ",".join(CLASSES), "--mpp", 0.25],
        "augment": ["augment", mini.patches, "-o", output],
        "masks": ["masks", mini.balanced, "--model", mini.seg, "-o", output],
        "explain": ["explain", mini.balanced, "--model", mini.cls, "-o", output, *FAST, "--shard-size", "4"],
        "score": ["score", mini.maps, "--masks", mini.masks, "-o", output],
        "report": ["report", mini.scores, "-o", output],
    }


def fill_up(disk: Path, leave: int) -> Path:
    """A file that leaves so many blocks free."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * BLOCK)
    with open(filler, "r+b") as file:
        file.truncate(max(0, filler.stat().st_size - leave * BLOCK))
    return filler


@pytest.mark.parametrize(
    ("verb", "leave"),
    [(v, n) for v in ("ingest", "augment", "masks", "score") for n in (0, 3, 30, 60)]
    + [("explain", 3), ("explain", 60), ("report", 30)],
    ids=lambda value: f"{value} blocks" if isinstance(value, int) else value,
)
def test_a_full_disk(mini: Mini, tmp_path: Path, disk: Path, verb: str, leave: int) -> None:
    command = commands(mini, disk / "o")[verb]
    filler = fill_up(disk, leave)
    outcome = run(*command)
    if outcome.code == 0:  # it fitted; with less room it does not
        assert leave >= 30
        done(*commands(mini, tmp_path / "other")[verb])
        assert verb == "report" or array_files(disk / "o") == array_files(tmp_path / "other")
        return
    assert outcome.code == 1
    assert "No space left on device" in outcome.err
    assert str(disk) in outcome.err
    assert "make space and run the same command again, what is finished is kept" in outcome.err
    filler.unlink()
    room = subprocess.run(["mount", "-o", "remount,size=64m", disk], check=False)
    assert room.returncode == 0
    done(*command)
    done(*commands(mini, tmp_path / "other")[verb])
    if verb != "report":
        assert array_files(disk / "o") == array_files(tmp_path / "other")
    assert not [p for p in disk.rglob("*") if p.name.endswith((".tmp", ".old", ".part"))]


def test_a_read_only_mount(mini: Mini, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    made, fresh = commands(mini, disk / "made"), commands(mini, disk / "fresh")
    half = [*commands(mini, disk / "half")["explain"]]
    done(*made["explain"])
    done(*half, "--shard", 0)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert "ig 0" in done(*made["explain"])  # what is finished needs no writing
    done("info", disk / "made", "--verify")
    for command in (fresh["ingest"], fresh["explain"], fresh["score"], half):
        outcome = run(*command)
        assert outcome.code == 1
        assert "Read-only file system; choose an output that can be written to" in outcome.err
    assert run(*half, "--missing").out.startswith("1-")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    done(*half)
    assert array_files(disk / "half") == array_files(disk / "made")
