"""Users who mix things up, and machines that are set up oddly."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import stat
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import zarr

from histoxai.store.patches import Patches
from tests.conftest import Mini, array_files, done, run

# what each place of a command takes; all else goes wrong
INPUTS: dict[str, tuple[list[str], list[str]]] = {
    "augment": (["{}"], ["patches", "balanced", "nuclei"]),
    "audit": (["{}"], ["patches", "balanced", "nuclei"]),
    "train-cls": (["{}"], ["balanced"]),
    "train-seg": (["{}"], ["nuclei"]),
    "masks of": (["{}", "--model", "seg"], ["balanced", "patches", "nuclei"]),
    "masks by": (["balanced", "--model", "{}"], ["seg"]),
    "predict of": (["{}", "--model", "cls"], ["balanced", "patches", "nuclei"]),
    "predict by": (["balanced", "--model", "{}"], ["cls"]),
    "explain of": (["{}", "--model", "cls"], ["balanced"]),
    "explain by": (["balanced", "--model", "{}"], ["cls"]),
    "score of": (["{}", "--masks", "masks"], ["maps"]),
    "score by": (["maps", "--masks", "{}"], ["masks"]),
    "report": (["{}"], ["scores"]),
}
THINGS = (
    *("patches", "balanced", "nuclei", "masks", "maps", "scores", "cls", "seg", "report", "diagset", "pannuke"),
    *("a file", "an empty file", "an empty folder", "nothing", "zarr of others"),
)


@pytest.fixture(scope="module")
def things(mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything that a user may have lying around."""
    root = tmp_path_factory.mktemp("things")
    (root / "file").write_text("x")
    (root / "none").touch()
    (root / "empty").mkdir()
    zarr.open_group(root / "other.zarr", mode="w").create_array("x", data=np.zeros(3))
    odd = ("file", "none", "empty", "nothing", "other.zarr")
    named = {n: getattr(mini, n) for n in THINGS[:11]}
    return named | dict(zip(THINGS[11:], (root / o for o in odd), strict=True))


@pytest.mark.parametrize("place", list(INPUTS))
def test_wrong_things_in_every_place(things: dict[str, Path], tmp_path: Path, place: str) -> None:
    words, right = INPUTS[place]
    verb, out = place.split()[0], [] if place == "audit" else ["-o", tmp_path / "o"]
    for name in (n for n in THINGS if n not in right):
        given = [things[name] if w == "{}" else things.get(w, w) for w in words]
        outcome = run(verb, *given, *out)
        assert outcome.code in (2, 3, 4), (name, outcome)
        last = outcome.err.strip().splitlines()[-1]
        assert last.startswith("histoxai: "), name
        assert str(things[name]) in last, (name, last)
        assert not (tmp_path / "o").exists(), name


def test_labels_that_somebody_corrected_in_the_store(mini: Mini, tmp_path: Path) -> None:
    for name in ("label", "split"):
        shutil.copytree(mini.balanced, tmp_path / name)
        array = zarr.open_array(tmp_path / name / name, mode="r+")
        array[0] = 1 - array[0]
        outcome = run("masks", tmp_path / name, "--model", mini.seg, "-o", tmp_path / "o")
        assert outcome.code == 1
        assert (
            f"{name}/c/0 is damaged, or was changed after it was written; make the store again: `histoxai augment"
            in outcome.err
        )
        assert not (tmp_path / "o").exists()


def test_pixels_that_somebody_changed_are_found_by_verify(mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(mini.balanced, tmp_path / "b")
    array = zarr.open_array(tmp_path / "b/images", mode="r+")
    array[3] = 255 - array[3]
    outcome = run("info", tmp_path / "b", "--verify")
    assert outcome.code == 1
    assert "'images' fails its checksums in shard 0" in outcome.err


def test_an_input_that_is_made_again_while_it_is_read(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("augment", mini.patches, "-o", tmp_path / "b")
    real, calls = Patches.read, []

    def read(self: Patches, *arguments: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:  # somebody else starts over with another seed
            done("augment", mini.patches, "-o", tmp_path / "b", "--force", "--seed", 1)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Patches, "read", read)
    words = ["masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "o", "--shard-size", 8]
    outcome = run(*words)
    assert outcome.code == 1
    assert "b: was made again, or removed, while it was read; run the command again" in outcome.err
    assert len(calls) >= 2
    monkeypatch.setattr(Patches, "read", real)
    done("augment", mini.patches, "-o", tmp_path / "b", "--force")
    done(*words)
    done("masks", mini.balanced, "--model", mini.seg, "-o", tmp_path / "whole", "--shard-size", 8)
    assert array_files(tmp_path / "o") == array_files(tmp_path / "whole")


@pytest.mark.parametrize("year", [0, 4e9], ids=["1970", "2096"])
def test_a_clock_that_was_wrong(mini: Mini, tmp_path: Path, year: float) -> None:
    words = ["explain", tmp_path / "b", "--model", mini.cls, "--method", "saliency,gradcam", "--shard-size", 8]
    shutil.copytree(mini.balanced, tmp_path / "b")
    done(*words, "-o", tmp_path / "whole")
    done(*words, "-o", tmp_path / "m", "--shard", "0-1")
    left = tmp_path / "m" / "_done/saliency/.2.json@elsewhere@1-0123abcd.tmp"
    left.touch()
    for path in [*(tmp_path / "b").rglob("*"), *(tmp_path / "m").rglob("*")]:
        os.utime(path, (year, year))
    done(*words, "-o", tmp_path / "m")
    assert array_files(tmp_path / "m") == array_files(tmp_path / "whole")


def started(*words: object, **environ: str | None) -> subprocess.CompletedProcess[str]:
    """A command as a process with other variables (None: unset)."""
    env = {k: v for k, v in {**os.environ, **environ}.items() if v is not None}
    command = [sys.executable, "-m", "histoxai", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, encoding="utf-8")


C: dict[str, str | None] = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": None, "PYTHONCOERCECLOCALE": None}
ASCII: dict[str, str | None] = {**C, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_a_locale_without_signs(mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(mini.diagset / "blobs/S/20x", tmp_path / "a")
    (tmp_path / "a/scan0").rename(tmp_path / "a/Schnitt ü")
    shutil.copytree(tmp_path / "a", tmp_path / "Präparate/blobs/S/20x")
    shutil.copytree(tmp_path / "a", tmp_path / "plain/blobs/S/20x")
    told = started("ingest", tmp_path / "Präparate", "-o", tmp_path / "ü.zarr", "--classes", "A,N", "--json", **C)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["output"].endswith("ü.zarr")
    # a Python that was told to know ASCII only: refused with what helps, where a name needs more
    words = ["-o", tmp_path / "o", "--classes", "A,N", "--json"]
    refused = started("ingest", tmp_path / "Präparate", *words, **ASCII)
    assert refused.returncode == 3
    assert "names are ascii to this Python; set PYTHONUTF8=1" in refused.stderr
    shutil.copytree(tmp_path / "ü.zarr", tmp_path / "u.zarr")
    for more in ([], ["--json"]):
        table = started("info", tmp_path / "u.zarr", *more, **ASCII)
        assert table.returncode == 0, table.stderr
        assert table.stdout.isascii()
        assert "Traceback" not in table.stderr
    assert json.loads(table.stdout)["complete"]


@pytest.mark.slow
def test_names_that_are_not_utf8(mini: Mini, tmp_path: Path) -> None:
    bad = os.fsencode(tmp_path) + b"/na\xefve"
    os.mkdir(bad)
    for words in (["info", bad], ["ingest", mini.diagset, "-o", bad + b"/o"]):
        command = [os.fsencode(w) for w in (sys.executable, "-m", "histoxai", *words)]
        found = subprocess.run(command, capture_output=True, check=False)
        assert found.returncode == 3
        assert b"na\\udcefve" in found.stderr
        assert b"the name is not UTF-8; rename it" in found.stderr
    # where one works, names are relative
    shutil.copytree(mini.patches, os.fsdecode(bad + b"/p.zarr"))
    command = [sys.executable, "-m", "histoxai", "augment", "p.zarr", "-o", "b.zarr"]
    found = subprocess.run(command, capture_output=True, check=False, cwd=bad)
    assert found.returncode == 0, found.stderr.decode()
    found = subprocess.run([sys.executable, "-m", "histoxai", "info", "b.zarr", "--json"], capture_output=True, cwd=bad)
    assert json.loads(found.stdout)["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("term", [None, "dumb", "xterm-256color"])
def test_a_terminal_of_40_columns(mini: Mini, tmp_path: Path, term: str | None) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 40, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "TERM")}
    env |= {"TERM": term} if term else {}
    words = ["explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m", "--method", "saliency"]
    command = [sys.executable, "-m", "histoxai", *map(str, words)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    told = b""
    try:
        while piece := os.read(ours, 4096):
            told += piece
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 0, told.decode()
    os.close(ours)
    assert b"Traceback" not in told
    assert "30 patches" in " ".join(told.decode().split())
    if term != "xterm-256color":
        assert b"\x1b" not in told


@pytest.mark.slow
def test_no_home_one_that_takes_nothing_and_a_narrow_umask(mini: Mini, tmp_path: Path) -> None:
    homes: dict[str, dict[str, str | None]] = {
        "none": {"HOME": None, "XDG_CACHE_HOME": None},
        "missing": {"HOME": str(tmp_path / "nowhere")},
        "no folder": {"HOME": "/dev/null"},
    }
    for name, environ in homes.items():
        old = os.umask(0o077)
        try:
            found = started(
                *("report", mini.scores, "-o", tmp_path / name, "--examples", 0, "--workers", 1, "--quiet"),
                **{**environ, "MPLCONFIGDIR": None},
            )
        finally:
            os.umask(old)
        assert found.returncode == 0, found.stderr
        assert "Traceback" not in found.stderr
        modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / name).rglob("*")}
        assert modes <= {0o600, 0o700}, modes
    done("info", tmp_path / "none", "--verify")
