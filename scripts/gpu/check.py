"""Run every step of the GPU check in order of value, and keep `gpu.json` and `gpu.md` up to date meanwhile.

Exits with 1 if a test failed or a step broke, with 75 if the time was over before the last step.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gpu.results import RESULTS, append, read, write_report
from histoxai.core import signals

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 9.0
GRACE = 5.0  # seconds that a step has to end by itself once its time is over


@dataclass(frozen=True)
class Step:
    """One process: arguments of Python, and the seconds below which it is not worth starting."""

    name: str
    arguments: tuple[str, ...]
    least: float


def _tests(name: str, *arguments: str, least: float = 10) -> Step:
    common = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "--durations=0", "--durations-min=5")
    return Step(name, (*common, *arguments), least)


def _rates(name: str, least: float = 15) -> Step:
    return Step(f"rates: {name}", ("-m", "gpu.rates", name), least)


METHODS = "tests/gpu/test_methods.py"
STEPS = (
    Step("facts", ("-m", "gpu.facts"), 0),
    _tests("tests: the study's methods", METHODS, "-k", "study_methods and thesis-cnn"),
    _rates("study"),
    _tests("tests: whole commands", "tests/gpu/test_stores.py"),
    _tests("tests: training", "tests/gpu/test_training.py"),
    _tests("tests: the study's methods on other networks", METHODS, "-k", "study_methods and not thesis-cnn"),
    _rates("libraries"),
    _rates("waiting"),
    _rates("training"),
    _tests("tests: all other methods", METHODS, "-k", "other_methods"),
    _rates("methods"),
)


def main() -> None:
    """Run the steps that fit into the time."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu-check"), help="where the results go")
    parser.add_argument("--rehearse", action="store_true", help="the same on a CPU with small sizes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all steps")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(check(chosen.folder, chosen.rehearse, time.monotonic() + 60 * chosen.minutes))


def check(folder: Path, rehearse: bool, deadline: float) -> int:
    """Run the steps until `deadline`; return the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = folder / "results.jsonl"
    lines.unlink(missing_ok=True)
    append({"fact": "rehearsal", "value": rehearse}, lines)
    code = 0
    for step in STEPS:
        why = _run(step, folder, lines, rehearse, deadline)
        if why:
            append({"step": step.name, "why": why}, lines)
            code = max(code, 75 if "time" in why else 1)
        write_report(folder, read(lines))
    if any(row.get("outcome") == "failed" for row in read(lines)):
        code = 1
    print((folder / "gpu.md").read_text())
    return code


def _run(step: Step, folder: Path, lines: Path, rehearse: bool, deadline: float) -> str:
    """Run one step; return why it was not finished, or nothing."""
    left = deadline - time.monotonic()
    if left < step.least:
        return "no time left"
    print(f"== {step.name}, {left:.0f} s left", flush=True)
    log = (folder / "output.txt").open("a")
    process = subprocess.Popen(
        [sys.executable, *step.arguments],
        cwd=ROOT,
        env=_environment(lines, rehearse),
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=signals.die_with_parent,
    )
    try:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.5)
            write_report(folder, read(lines))
        if process.poll() is None:
            return "the time was over"
    finally:
        _end(process)
        log.close()
    tests_failed = step.name.startswith("tests") and process.returncode == 1  # they are listed by name
    return "" if process.returncode == 0 or tests_failed else f"exit code {process.returncode}; see output.txt"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step and whatever it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def _environment(lines: Path, rehearse: bool) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    changes = {RESULTS: str(lines.resolve()), "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **changes, **({"HISTOXAI_GPU_REHEARSE": "1"} if rehearse else {})}


if __name__ == "__main__":
    main()
