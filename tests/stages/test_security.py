"""What docs/security.md promises, shown on whole commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.core.s3_paths import mirror_root
from tests.conftest import FAST, SEG, Mini, array_files, done, patch, run, write_pannuke

pytestmark = pytest.mark.slow

# Runs commands with Python's audit hook, which sees what libraries do as well, and tells what was done.
WATCHED = """
import json, os, sys
place, commands = sys.argv[1], json.loads(sys.argv[2])
told = []
from histoxai.cli.app import app
from typer.testing import CliRunner
def seen(event, args):
    if event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo",
                 "socket.bind", "shutil.unpack_archive", "urllib.Request", "ftplib.connect", "webbrowser.open"):
        told.append([event, str(args)[:200]])
    if event == "subprocess.Popen":
        told.append([event, str(args[1])[:200]])
    if event == "open" and isinstance(args[0], str) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        path = os.path.realpath(args[0])
        if not path.startswith((place, "/dev/", "/proc/self/")):
            told.append([event, path])
sys.addaudithook(seen)
for words in commands:
    result = CliRunner().invoke(app, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, (words, result.output)
print(json.dumps(told))
"""


def commands(mini: Mini, place: Path) -> list[list[str]]:
    found: list[list[object]] = [
        ["ingest", mini.diagset, "-o", place / "p", "--classes", "A,N,R1", "--mpp", 0.25],
        ["augment", place / "p", "-o", place / "b"],
        ["train-cls", place / "b", "-o", place / "cls", "--epochs", 1, "--batch-size", 16],
        ["masks", mini.balanced, "--model", mini.seg, "-o", place / "k"],
        ["explain", mini.balanced, "--model", mini.cls, "-o", place / "m", "--per-class", 2, *FAST],
        ["score", place / "m", "--masks", place / "k", "-o", place / "s"],
        ["report", place / "s", "-o", place / "r", "--workers", 1, "--examples", 4],
        ["predict", mini.patches, "--model", mini.cls, "-o", place / "q"],
        ["info", place / "m", "--verify"],
        ["audit", mini.balanced],
    ]
    return [[str(w) for w in words] for words in found]


def test_nothing_is_unpickled_no_network_no_shell_and_nothing_written_elsewhere(mini: Mini, tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    environ = {**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path), "MPLCONFIGDIR": str(cache)}
    words = json.dumps(commands(mini, tmp_path))
    found = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path), words], capture_output=True, text=True, check=False, env=environ
    )
    assert found.returncode == 0, found.stderr
    told = [t for t in json.loads(found.stdout.splitlines()[-1]) if not re.search(HARMLESS, t[1])]
    assert told == [], told
    assert not list(home.iterdir())


# peaks of memory; where matplotlib and ctypes look for fonts and libraries; urllib3 asks whether there is IPv6
HARMLESS = r"^/proc/\d+/clear_refs$|^\['(/sbin/ldconfig|fc-list)', |\('::1', 0\)\)$"
SECRET = "s3cr3t-4f9b"


def test_no_variable_of_the_environment_is_stored(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "MY_PASSWORD", "HISTOXAI_CACHE_KEY"):
        monkeypatch.setenv(name, SECRET)
    place = tmp_path / "made"
    for words in commands(mini, place):
        done(*words)
    held = [p for p in place.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert held == []
    assert any(b"histoxai explain" in p.read_bytes() for p in place.rglob("item.json"))


EVIL = (
    *("<b onload=alert(1)>", "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "\\input{x}", "=1+1", "a b"),
    *("{{7*7}}", "%d%s", "[red]x", "-o", "..\\x", "\x1b[31mred", "a\u202eb", "*", "~", "&& touch pwned", "#", "null"),
)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose scans, classes and folders have harmful names."""
    root = tmp_path_factory.mktemp("evil") / "$(touch pwned) 'x' `touch pwned`"
    root.mkdir()
    classes = ("<script>alert(1)<", "$(touch pwned)", "\\input{x} & %")
    for scan, name in enumerate((*EVIL, "last")):
        for label, kind in enumerate(classes):
            rng = np.random.default_rng([scan, label])
            folder = root / "src" / kind / name
            folder.mkdir(parents=True)
            for k in range(2):
                Image.fromarray(patch(rng, label)[0]).save(folder / f"`touch pwned`{k}.png")
    write_pannuke(root / "pannuke")
    done("ingest", root / "src", "-o", root / "p.zarr", "--classes", ",".join(classes), "--mpp", 0.5)
    done("augment", root / "p.zarr", "-o", root / "b.zarr")
    done("train-cls", root / "b.zarr", "-o", root / "cls", "--epochs", 1, "--batch-size", 16)
    done("ingest", root / "pannuke", "-o", root / "n.zarr")
    done("train-seg", root / "n.zarr", "-o", root / "seg", *SEG)
    done("masks", root / "b.zarr", "--model", root / "seg", "-o", root / "k.zarr")
    done(*("explain", root / "b.zarr", "--model", root / "cls", "-o", root / "m.zarr"), "--method", "saliency,gradcam")
    done("score", root / "m.zarr", "--masks", root / "k.zarr", "-o", root / "s.zarr")
    return root


def test_names_never_become_markup(evil: Path, tmp_path: Path) -> None:
    title = "</title><img src=x onerror=alert(1)>{{7*7}}"
    done("report", evil / "s.zarr", "-o", tmp_path / "r", "--title", title, "--export", tmp_path / "x", "--examples", 6)
    page = (tmp_path / "r/index.html").read_text()
    scripts = re.findall(r"<script[^>]*>", page)
    assert all(re.fullmatch(r'<script( type="application/json" id="data")?>', s) for s in scripts), scripts
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "49" not in re.findall(r"<title>(.*?)</title>", page)[0]
    assert "onerror=alert(1)&gt;" in page
    assert "\x1b" not in page
    for path in (tmp_path / "x").rglob("*.tex"):
        text = path.read_text()
        assert r"\input" not in text
        assert r"\textbackslash{}input\{x\} \& \%" in text or "input" not in text
    made = [p.relative_to(tmp_path / "x") for p in (tmp_path / "x").rglob("*")]
    assert all(re.fullmatch(r"[\w.-]+", part) for p in made for part in p.parts), made


def remedies(text: str) -> list[str]:
    """The commands that a message tells to run."""
    found = re.findall(r"`(histoxai .*)`", text.strip())
    assert found, text
    return found


def test_printed_commands_can_be_pasted(evil: Path, tmp_path: Path) -> None:
    shutil.copytree(evil, tmp_path / evil.name)
    root = tmp_path / evil.name
    shutil.rmtree(root / "m.zarr/attributions/saliency/c/0")
    (root / "k.zarr/_done/masks/0.json").unlink()
    messages = [
        run("score", root / "m.zarr", "--masks", root / "k.zarr", "-o", root / "new.zarr").err,
        run("info", root / "m.zarr", "--verify").err,
        run("info", root / "k.zarr", "--verify").err,
    ]
    told = [command for text in messages for command in remedies(text)]
    assert len(told) == 3
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/histoxai").write_text(f'#!/bin/sh\nexec {sys.executable} -m histoxai "$@"\n')
    (tmp_path / "bin/histoxai").chmod(0o755)
    (tmp_path / "here").mkdir()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for command in told:
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path / "here",
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, (command, ran.stderr)
    assert not list(tmp_path.rglob("pwned"))
    assert array_files(root / "m.zarr") == array_files(evil / "m.zarr")
    done("info", root / "m.zarr", "--verify")


def test_names_of_methods_are_never_paths(mini: Mini, tmp_path: Path) -> None:
    for name in ("../x", "a/b", "..", ".", "", "a\\b", "-x"):
        outcome = run(
            "explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m", "--method", f"{name}=saliency"
        )
        assert outcome.code == 2, (name, outcome)
        assert not (tmp_path / "m").exists()


def test_the_cache_in_a_shared_folder_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HISTOXAI_CACHE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    from histoxai.core import s3_paths
    from histoxai.store.storage.s3_mirror import _create_cache

    s3_paths._cache.cache_clear()
    s3_paths._mirror_root.cache_clear()
    s3_paths._mirror_pattern.cache_clear()
    try:
        old = os.umask(0)
        try:
            _create_cache()
        finally:
            os.umask(old)
        folder = tmp_path / f"histoxai-{os.getuid()}"
        assert Path(mirror_root()).is_relative_to(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        if os.getuid() == 0:
            os.chown(folder, 12345, -1)
            with pytest.raises(Exception, match="belongs to somebody else"):
                _create_cache()
    finally:
        s3_paths._cache.cache_clear()
        s3_paths._mirror_root.cache_clear()
        s3_paths._mirror_pattern.cache_clear()
