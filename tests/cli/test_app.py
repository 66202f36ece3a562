"""The command line: quick help, clean stdout, exit codes, one-line errors."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histoxai import __version__, settings
from histoxai.cli.terminal import strict, use_threads
from histoxai.core import errors, registry
from histoxai.explain.catalogue import source_of
from tests.conftest import Mini, done, run, write_diagset

HEAVY = ("torch", "zarr", "numpy", "scipy", "matplotlib", "captum", "sklearn", "PIL")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["explain", "--help"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom histoxai.cli.app import main\nsys.argv = ['histoxai', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert e.code in (0, 2), e.code\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_scoring_starts_without_torch() -> None:
    code = (
        "import sys\nimport histoxai.stages.score\nfrom histoxai.core.registry import ENTRIES, resolve\n"
        "[resolve('method', n) for n in ENTRIES['method']]\n"
        "heavy = [m for m in ('torch', 'captum', 'lime', 'sklearn') if m in sys.modules]\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_module_entry_and_version() -> None:
    result = subprocess.run([sys.executable, "-m", "histoxai", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"histoxai {__version__}\n"


KEYS = {"method", "mask", "class", "case", "metric", "mean", "n", "undefined", "partial"}


def test_score_json_is_one_object_and_nothing_else(mini: Mini) -> None:
    for profile in ("corrected", "thesis"):
        out = done("score", mini.maps, "--masks", mini.masks, "-o", mini.scores, "--json", "--profile", profile)
        assert out.count("\n") == 1
        data = json.loads(out, parse_constant=lambda c: pytest.fail(f"not strict JSON: {c}"))
        assert data["schema"] == "histoxai.score/1"
        assert data["profile"] == profile
        assert set(data["rows"][0]) >= KEYS
        assert {r["method"] for r in data["rows"]} == {"ig", "nt", "lime", "gradcam"}
        assert {r["case"] for r in data["rows"]} == {"all", "1", "2", "3", "4"}
        assert {r["mask"] for r in data["rows"]} == {"tumor", "non_tumor"}
        metrics = {"iou", "precision", "recall", "f1", "spearman", "phi", "pixel_accuracy"}
        assert {r["metric"] for r in data["rows"]} >= metrics
        for r in data["rows"]:
            assert (r["mean"] is None) == (r["n"] == 0)


def test_json_through_a_real_pipe(mini: Mini) -> None:
    command = [sys.executable, "-m", "histoxai", "score", mini.maps, "--masks", mini.masks, "-o", mini.scores]
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["patches"] > 0
    shell = " ".join(map(str, command)) + " --jsonl | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert json.loads(result.stdout)["schema"] == "histoxai.score/1"
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_jsonl_has_a_row_per_patch_that_averages_to_the_json(mini: Mini) -> None:
    common = ["score", mini.maps, "--masks", mini.masks, "-o", mini.scores]
    rows = [json.loads(line) for line in done(*common, "--jsonl").splitlines()]
    summary = json.loads(done(*common, "--json"))["rows"]
    chosen = [r["mean"] for r in rows if (r["method"], r["mask"], r["metric"]) == ("gradcam", "tumor", "iou")]
    want = next(
        r
        for r in summary
        if (r["method"], r["mask"], r["metric"], r["class"], r["case"]) == ("gradcam", "tumor", "iou", "all", "all")
    )
    known = [v for v in chosen if v is not None]
    assert len(chosen) == want["n"] + want["undefined"]
    assert np.mean(known) == pytest.approx(want["mean"], abs=1e-12)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    source = write_diagset(tmp_path / "d", scans=1)
    output = tmp_path / "q[/b][red].zarr"
    assert "q[/b][red].zarr" in done("ingest", source, "-o", output, "--classes", "A,N").replace("\n", "").replace(
        " ", ""
    )
    assert "q[/b][red].zarr" in done("info", output)


def test_closed_stdout_and_odd_environments(tmp_path: Path) -> None:
    source = write_diagset(tmp_path / "d", scans=1)
    command = f"{sys.executable} -m histoxai ingest {source} -o {tmp_path / 'o'} --classes A --json"
    closed = subprocess.run(["bash", "-c", command + " >&-"], capture_output=True, text=True, check=False)
    assert (closed.returncode, "Traceback" in closed.stderr) == (0, False)
    named = subprocess.run(
        ["bash", "-c", "HISTOXAI_VERSION=1.0 " + command], capture_output=True, text=True, check=False
    )
    assert named.returncode == 0, named.stderr


def test_a_signal_while_reading_is_no_damage(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise errors.Interrupted("stopped by SIGTERM")

    monkeypatch.setattr("zarr.Array.__getitem__", stop)
    outcome = run("augment", mini.patches, "--plan")
    assert outcome.code == 75
    assert "stopped by SIGTERM; what is finished is kept" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ingest"], 2, "Missing argument"),
        (["ingest", "/nowhere", "-o", "x"], 3, "/nowhere: no such folder"),
        (["augment", "/nowhere", "--plan"], 3, "no such store"),
        (["augment", "/nowhere"], 2, "--plan"),
        (["augment", "/nowhere", "--plan", "--fractions", "1,2"], 2, "three numbers"),
        (["augment", "/nowhere", "--plan", "--fractions", "nan,nan,nan"], 2, "add up to 1"),
        (["explain", "p", "--model", "m", "-o", "x", "-O", "ig.steps=0"], 2, "-O ig.steps: 0 must be at least 1"),
        (["explain", "p", "--model", "m", "-o", "x", "--method", "a=ig,a=nt"], 2, "'a' is given twice"),
        (["augment", "/nowhere", "--plan", "--split-by", "magic"], 2, "patient, site, patch, source"),
        (["explain", "p", "--model", "m", "-o", "x", "--force", "--shard", "1"], 2, "--force with --shard"),
        (["explain", "p", "--model", "m", "-o", "x", "--method", "ig,ig"], 2, "names one twice"),
        (["explain", "p", "--model", "m", "-o", "x", "--method", "magic"], 2, "unknown method"),
        (["score", "p", "--masks", "m", "-o", "x", "--json", "--jsonl"], 2, "exclude each other"),
        (["score", "p", "--masks", "m", "-o", "x", "--profile", "magic"], 2, "unknown profile"),
        (["score", "p", "--masks", "m", "-o", "x", "--map-threshold", "1.5"], 2, "less than 1"),
        (["info", "/nowhere"], 3, "no such store"),
        (["train-cls", "p", "-o", "x", "--epochs", "0"], 2, "at least 1"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, words: str) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert words in " ".join(outcome.err.split())


def test_environment_stands_between_flags_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_diagset(tmp_path / "d", scans=1)
    monkeypatch.setenv("HISTOXAI_INGEST_CLASSES", "N")
    assert list(json.loads(done("ingest", source, "-o", tmp_path / "a", "--json"))["classes"]) == ["N"]
    flagged = done("ingest", source, "-o", tmp_path / "b", "--json", "--classes", "A,N")
    assert list(json.loads(flagged)["classes"]) == ["A", "N"]


def test_dry_run_writes_nothing(tmp_path: Path, mini: Mini) -> None:
    source = write_diagset(tmp_path / "d", scans=1)
    done("ingest", source, "-o", tmp_path / "o", "--dry-run")
    done("train-cls", mini.balanced, "-o", tmp_path / "o", "--dry-run")
    done("train-seg", mini.nuclei, "-o", tmp_path / "o", "--dry-run")
    done("masks", mini.balanced, "--model", mini.seg, "-o", tmp_path / "o", "--dry-run")
    done("explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "o", "--dry-run")
    done("score", mini.maps, "--masks", mini.masks, "-o", tmp_path / "o", "--dry-run")
    done("report", mini.scores, "-o", tmp_path / "o", "--dry-run")
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_signals_end_with_75_and_leave_the_store_usable(tmp_path: Path, mini: Mini) -> None:
    command = [sys.executable, "-m", "histoxai", "explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m"]
    command += ["--method", "lime", "--shard-size", "2", "-O", "lime.samples=4000"]
    task = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "m" / "_done" / "lime").glob("0.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    task.send_signal(signal.SIGTERM)
    out, err = task.communicate(timeout=10)
    assert (task.returncode, out) == (75, "")
    assert "run the same command again to go on" in err
    assert json.loads(done("info", tmp_path / "m", "--json"))["complete"] is False


def test_strict_json_values() -> None:
    assert strict({"a": float("nan"), "b": (np.float64(1.5), np.int64(2), float("inf"))}) == {
        "a": None,
        "b": [1.5, 2, None],
    }


def test_threads_follow_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert use_threads(None) == 3
    assert use_threads(5) == 5
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert 1 <= use_threads(None) <= 8


def test_every_error_has_its_documented_exit_code() -> None:
    codes = {c.__name__: c.exit_code for c in vars(errors).values() if isinstance(c, type)}
    text = errors.__doc__ or ""
    for name, code in codes.items():
        line = next(x for x in text.splitlines() if f"{name} " in x)
        assert f" {code}  " in line


def test_every_registry_entry_resolves_and_names_its_source() -> None:
    for kind, entries in registry.ENTRIES.items():
        for name in entries:
            named = registry.resolve(kind, name)
            if kind == "method":
                assert source_of(named) == "closed form" if name == "random" else named.citations, name
            elif kind == "measure":
                assert named.name == name
                assert named.source
            else:
                assert "Source: " in (named.__doc__ or ""), name


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"),
    [
        (settings.Ingest, "shard_size", 10**20, "--shard-size: 100000000000000000000 must be at most 2147483647"),
        (settings.Augment, "shard_size", 1_000_001, "--shard-size: 1000001 must be at most 1000000"),
        (settings.Masks, "micro_batch", 65_537, "--micro-batch: 65537 must be at most 65536"),
        (settings.TrainCls, "lr", float("inf"), "--lr: inf must be finite"),
        (settings.TrainCls, "lr", float("nan"), "--lr: nan must be finite"),
        (settings.TrainSeg, "epochs", 2**31, "--epochs: 2147483648 must be at most 2147483647"),
    ],
)
def test_numbers_that_no_machine_counts_with_are_refused(kind: Any, field: str, value: float, words: str) -> None:
    with pytest.raises(errors.UsageError, match=re.escape(words)):
        kind(**{field: value})
    assert settings.Explain(seed=10**22).seed == 10**22


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["score", "--help"]])
def test_a_full_stdout_is_told(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        made = subprocess.run(
            [sys.executable, "-m", "histoxai", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert made.returncode == 1
    assert "No space left on device" in made.stderr
    assert "Traceback" not in made.stderr


def test_libraries_that_find_no_memory_are_no_bug_of_ours() -> None:
    told = errors.as_histoxai_error(ImportError("libtorch_cpu.so: failed to map segment from shared object"))
    assert told is not None
    assert "out of memory while libraries are loaded" in str(told)
    assert errors.as_histoxai_error(ImportError("No module named 'x'")) is None


@pytest.mark.parametrize("where", ["class", "group"])
def test_names_with_line_breaks_are_refused(tmp_path: Path, where: str) -> None:
    names = {"class": ("A\nhistoxai: all is well", "s1"), "group": ("A", "s\n1")}[where]
    folder = tmp_path / "d" / names[0] / names[1]
    folder.mkdir(parents=True)
    Image.new("RGB", (16, 16), (200, 100, 150)).save(folder / "p.png")
    outcome = run("ingest", tmp_path / "d", "-o", tmp_path / "p", "--format", "folder", "--quiet")
    assert outcome.code == 3
    assert "a line break in a name would break lists and messages; rename it" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "p").exists()


def test_one_class_and_too_few_groups_are_told(tmp_path: Path) -> None:
    write_diagset(tmp_path / "d", scans=1)
    done("ingest", tmp_path / "d", "-o", tmp_path / "p", "--classes", "A", "--mpp", 0.5)
    done("augment", tmp_path / "p", "-o", tmp_path / "b")
    outcome = run("train-cls", tmp_path / "b", "-o", tmp_path / "cls", "--dry-run")
    assert "has one class only, A: there is nothing to tell apart" in outcome.err
    outcome = run("train-cls", tmp_path / "b", "-o", tmp_path / "cls", "--epochs", 1)
    assert outcome.code == 3
    assert "patches; its groups were too few for all splits; bring more, or other `--fractions`" in outcome.err


def test_the_studys_settings_are_the_defaults() -> None:
    assert settings.Augment().fractions == (0.5, 0.2, 0.3)
    c, s = settings.TrainCls(), settings.TrainSeg()
    assert (c.arch, c.lr, c.batch_size, c.epochs, c.patience) == ("thesis-cnn", 1e-3, 64, 50, 5)
    assert (s.lr, s.batch_size, s.epochs, s.patience, s.width) == (1e-4, 1, 5000, 50, 32)
    assert settings.Explain().methods == ("ig", "nt", "lime", "gradcam")
    ig, nt = (registry.resolve("method", m).Options() for m in ("ig", "nt"))
    assert (ig.steps, ig.baseline) == (100, 0)
    assert (nt.samples, nt.stdev, nt.steps, nt.kind) == (5, 1.0, 50, "smoothgrad_sq")
    o = settings.Score()
    assert (o.map_threshold, o.mask_threshold, o.sure) == (0.3, 0.5, 0.6)
