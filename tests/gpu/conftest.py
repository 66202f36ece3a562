"""Fixtures of the GPU tests, and a line of results for each test as it ends (read by scripts/gpu/check.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from histoxai.networks.inference import pick_device

REHEARSE = "HISTOXAI_GPU_REHEARSE"
RESULTS = "HISTOXAI_GPU_RESULTS"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, with TF32 off; the CPU in a rehearsal."""
    if not torch.cuda.is_available() and not os.environ.get(REHEARSE):
        pytest.skip("no GPU; `scripts/gpu-check --rehearse` runs this on a CPU")
    return pick_device("auto", 0)


@pytest.fixture(scope="session")
def is_gpu(device: torch.device) -> bool:
    """Whether the tests run on a GPU, not in a rehearsal."""
    return device.type == "cuda"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Append the outcome of one test, with the reason of a failure or skip."""
    path = os.environ.get(RESULTS)
    if not path or not (report.when == "call" or report.outcome != "passed"):
        return
    row = {"test": report.nodeid.split("::", 1)[-1], "outcome": report.outcome, "seconds": round(report.duration, 2)}
    if report.outcome != "passed":
        row["why"] = _last_line(report)
    with Path(path).open("a") as file:
        file.write(json.dumps(row) + "\n")


def _last_line(report: pytest.TestReport) -> str:
    if report.skipped:
        return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash is not None else report.longrepr)[:500]
