"""scripts/gpu-check: its rehearsal on a CPU, what a stop leaves, its tables, and what it collects."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benches import counts
from gpu import check, collect, rates, results, waits

from tests.conftest import ROOT


def test_every_call_that_waits_for_the_device_has_its_reason() -> None:
    found = waits.waits()
    assert len(found) >= 15
    assert [f"{w.file}:{w.line}: {w.code}" for w in found if not w.reason] == []


def test_operations_are_those_of_the_literature() -> None:
    # He et al. 2016, table 1: 1.8e9 multiply-adds at 224 px; torchvision states 1.814e9
    forward = counts.passes("resnet18")["forward"].operations
    assert forward == pytest.approx(2 * 1.814e9 * (256 / 224) ** 2, rel=0.01)
    four = sum(counts.work_of(name, "thesis-cnn").operations for name in ("ig", "nt", "lime", "gradcam"))
    passes = counts.passes("thesis-cnn")
    want = 851 * passes["forward"].operations + 350 * passes["backward"].operations + passes["to layer"].operations
    assert four == pytest.approx(want)
    assert counts.work_of("random", "thesis-cnn").operations == 0
    memory = counts.Work(1.0, counts.BYTES)
    assert memory.seconds == 1.0


def test_intervals_are_united() -> None:
    assert rates.covered([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == 5
    assert rates.covered([]) == 0


def test_tables() -> None:
    rows = [
        {"fact": "card", "value": "NVIDIA X"},
        {"fact": "date", "value": "2026-11-28"},
        {"fact": "torch", "value": "2.11.0"},
        {"test": "test_a", "outcome": "passed", "seconds": 1},
        {"test": "test_b", "outcome": "failed", "seconds": 1, "why": "assert 1 == 2\n | more"},
        {"rate": "ig", "patches_per_second": 20.0, "share_of_bare": 0.91, "peak_gb": 2.345},
        {"rate": "ig, beside it", "patches_per_second": 20.0, "to_library": 3.21},
        {"step": "rates: methods", "why": "no time left"},
    ]
    text = results.markdown(rows)
    assert text.startswith("Measured: NVIDIA X, 2026-11-28.\n")
    assert "| torch | 2.11.0 |" in text
    assert "Tests: 1 passed, 1 failed, 0 skipped." in text
    assert "| test_b | assert 1 == 2 / more |" in text
    assert "| ig | 20 | 91% |  | 0.51 | 2.3 |" in text  # 36,862 patches / 20 / 3600
    assert "| ig, beside it | 20 |  | 3.2 x | 0.51 |  |" in text
    assert "| rates: methods | no time left |" in text
    assert results.markdown([{"fact": "rehearsal", "value": True}]).startswith("Rehearsed on a CPU")


def _step(name: str, code: str, least: float = 0) -> check.Step:
    return check.Step(name, ("-c", f"from gpu.results import append\n{code}"), least)


def test_a_stop_leaves_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (
        _step("one", "append({'fact': 'one', 'value': 1})"),
        _step("broken", "raise SystemExit(3)"),
        _step("long", "append({'fact': 'begun', 'value': 2})\nimport time\ntime.sleep(600)"),
        _step("never", "append({'fact': 'never', 'value': 3})", least=5),
    )
    monkeypatch.setattr(check, "STEPS", steps)
    assert check.check(tmp_path, True, time.monotonic() + 6) == 75
    rows = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {row["fact"]: row["value"] for row in rows if "fact" in row} == {"rehearsal": True, "one": 1, "begun": 2}
    assert {row["step"]: row["why"] for row in rows if "step" in row} == {
        "broken": "exit code 3; see output.txt",
        "long": "the time was over",
        "never": "no time left",
    }


def test_a_killed_check_leaves_what_was_done(tmp_path: Path) -> None:
    step = "from gpu.results import append; append({'fact': 'one', 'value': 1}); import time; time.sleep(600)"
    code = f"""import sys, time
from pathlib import Path
from gpu import check
check.STEPS = (check.Step("one", ("-c", {step!r}), 0),)
check.check(Path(sys.argv[1]), True, time.monotonic() + 600)
"""
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], env=_environment())
    try:
        _wait_for(lambda: "one" in (tmp_path / "gpu.md").read_text() if (tmp_path / "gpu.md").exists() else False)
    finally:
        process.kill()
        process.wait()
    rows = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {"fact": "one", "value": 1} in rows


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}


def _wait_for(met: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_a_machine_lacks_is_what_histoxai_needs_and_it_has_not() -> None:
    lacking = collect.lacking("3.12")
    assert {"captum", "lime", "grad-cam", "pytest", "lightning-fabric", "scikit-learn"} <= set(lacking)
    assert not {"torch", "torchvision", "numpy", "scipy", "zarr", "typer", "rich", "pillow", "histoxai"} & set(lacking)
    assert not any(name.startswith(("opencv", "nvidia")) for name in lacking)


@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    found = subprocess.run(
        [ROOT / "scripts" / "gpu-check", "--rehearse", "--minutes", "30", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + (tmp_path / "output.txt").read_text()[-4000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())["results"]
    outcomes = [row["outcome"] for row in rows if "test" in row]
    assert "failed" not in outcomes
    assert outcomes.count("passed") >= 125
    skipped = {row["why"] for row in rows if row.get("outcome") == "skipped"}
    assert all("GPU" in why or "CPU" in why or "refuses" in why for why in skipped), skipped
    measured = {row["rate"] for row in rows if "rate" in row}
    assert {"all four", "ig", "lime, the library's", "rise"} <= measured
    assert not [row for row in rows if "step" in row]
