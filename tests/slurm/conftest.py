"""One private Slurm for all tests here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

# What every module here is marked with.
MARKS = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        "HISTOXAI_TEST_SLURM" not in os.environ, reason="HISTOXAI_TEST_SLURM names no scripts that start a Slurm"
    ),
]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    scripts = Path(os.environ["HISTOXAI_TEST_SLURM"])
    place = tempfile.mkdtemp(prefix="histoxai-slurm-", dir="/tmp")  # short enough for its sockets
    env = {**os.environ, "SLURM_UP_NODES": "2", "SLURM_UP_CPUS": "2"}
    try:
        subprocess.run(["bash", scripts / "slurm-up.sh", place], env=env, check=True, timeout=300)
        env["SLURM_CONF"] = f"{place}/slurm.conf"
        env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}:/usr/sbin"
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            env.pop(name, None)
        yield Cluster(tmp_path_factory.mktemp("jobs"), env)
    finally:
        subprocess.run(["bash", scripts / "slurm-down.sh", place], check=False, timeout=120)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def healthy(slurm: Cluster) -> None:
    """Both nodes take jobs: an epilog that fails in a crowd drains its node, be it a moment after its job's end."""

    def idle() -> bool:
        slurm("scontrol", "update", "nodename=n1,n2", "state=resume", check=False)
        return slurm("sinfo", "-h", "-p", "main", "-o", "%T").split() == ["idle"]

    slurm.until(idle, 30)
