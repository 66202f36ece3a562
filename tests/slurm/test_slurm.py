"""Array jobs under a real Slurm: killed, requeued, preempted, and on a node that is given up for dead.

HISTOXAI_TEST_SLURM names a folder with `slurm-up.sh DIR` and `slurm-down.sh DIR`, which start and stop a private
one-machine Slurm. CI sets it, so that these tests cannot be skipped there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from histoxai.store.shards import Store
from tests.conftest import ROOT, array_files
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import MARKS

pytestmark = MARKS
JOBS = ROOT / "scripts" / "slurm"
# LIME alone: one shard of five patches takes long enough to be hit in the middle
SLOW = [
    *("--per-class", "3", "--shard-size", "7", "--method", "lime", "--threads", "1"),
    *("-O", "lime.samples=400", "-O", "lime.kernel_size=1", "-O", "lime.max_dist=6"),
]
ALL = [
    *("--per-class", "4", "--shard-size", "4", "--threads", "1"),
    *("-O", "ig.steps=8", "-O", "nt.steps=4", "-O", "nt.samples=2"),
    *("-O", "lime.samples=40", "-O", "lime.kernel_size=1", "-O", "lime.max_dist=6"),
]


@dataclass
class Ready:
    """The demo's inputs, and what a single process makes of them."""

    demo: Path
    root: Path

    def explain(self, output: Path, options: list[str]) -> list[object]:
        return ["explain", self.demo / "balanced.zarr", "--model", self.demo / "cls", "-o", output, *options]


@pytest.fixture(scope="module")
def ready(demo: tuple[Path, float, str], slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    made = Ready(demo[0], tmp_path_factory.mktemp("single"))
    for name, options in (("slow", SLOW), ("all", ALL)):
        slurm("histoxai", *made.explain(made.root / f"{name}.zarr", options), "--quiet")
    return made


def same(store: Path, single: Path) -> None:
    """The store is complete, byte for byte the single process' one, and nothing is left behind in it."""
    assert array_files(store) == array_files(single)
    assert Store(store).digest() == Store(single).digest()
    assert all(not state["missing"] + state["failed"] for state in Store(store).completeness(verify=True).values())
    assert not [p for p in store.parent.rglob("*") if p.name.endswith((".tmp", ".old", ".part"))]


def in_mid_shard(store: Path, ready: Ready) -> Callable[[], object]:
    """Predictions are done, and half of what LIME takes for a shard on this machine."""
    facts = json.loads((ready.root / "slow.zarr/_done/lime/0.json").read_text())
    started: list[float] = []

    def test() -> bool:
        if (store / "_done/predictions/0.json").exists() and not started:
            started.append(time.monotonic())
        return bool(started) and time.monotonic() - started[0] > facts["seconds"] / 2

    return test


def test_an_array_over_the_demo_with_score_and_report_behind_it(slurm: Cluster, ready: Ready, tmp_path: Path) -> None:
    """scripts/slurm/pipeline as docs/cluster.md shows it, four tasks on two nodes."""
    env = {"SBATCH": "--cpus-per-task=1 --mem=500"}
    slurm.env.update(env)
    demo = ready.demo
    jobs = slurm(JOBS / "pipeline", 4, demo / "balanced.zarr", demo / "cls", demo / "seg", tmp_path, *ALL).split()
    assert len(jobs) == 4
    slurm.until(lambda: all(slurm.finished(job) for job in jobs), 240)
    same(tmp_path / "maps.zarr", ready.root / "all.zarr")
    assert Store(tmp_path / "masks.zarr").digest() == Store(demo / "masks.zarr").digest()
    slurm(
        "histoxai", "score", ready.root / "all.zarr", "--masks", demo / "masks.zarr", "-o", ready.root / "s.zarr", "-q"
    )
    assert array_files(tmp_path / "scores.zarr") == array_files(ready.root / "s.zarr")
    assert (tmp_path / "report/index.html").stat().st_size > 1e5
    hosts = Store(tmp_path / "maps.zarr").completeness()["ig"]["hosts"]
    assert sum(hosts.values()) == 7


def test_a_task_that_is_killed_in_mid_shard(slurm: Cluster, ready: Ready, tmp_path: Path) -> None:
    command = ready.explain(tmp_path / "m.zarr", SLOW)
    job = slurm.submit("--array=0-1", "--no-requeue", JOBS / "array.sbatch", *command)
    slurm.until(in_mid_shard(tmp_path / "m.zarr", ready))
    slurm("scancel", "--signal=KILL", "--full", f"{job}_0")
    slurm.until(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(slurm.state(job)))
    assert slurm.state(f"{job}_1") == ["COMPLETED"]
    assert slurm.state(f"{job}_0") != ["COMPLETED"]
    missing = slurm("histoxai", *command, "--missing")
    assert 0 in {int(k) for part in missing.split(",") for k in part.split("-")}
    again = slurm.submit(f"--array={missing}", "--wrap", _wrap(command))
    slurm.until(lambda: slurm.finished(again))
    same(tmp_path / "m.zarr", ready.root / "slow.zarr")


def _wrap(command: list[object]) -> str:
    """README's recipe for the shards that `--missing` prints."""
    return "exec histoxai " + " ".join(map(str, command)) + " --shard $SLURM_ARRAY_TASK_ID"


def test_a_task_that_is_requeued(slurm: Cluster, ready: Ready, tmp_path: Path) -> None:
    job = slurm.submit("--array=0-1", JOBS / "array.sbatch", *ready.explain(tmp_path / "m.zarr", SLOW))
    slurm.until(in_mid_shard(tmp_path / "m.zarr", ready))
    slurm("scontrol", "requeue", f"{job}_0")
    slurm.until(lambda: slurm.finished(job), 120)
    assert "Restarts=1" in slurm("scontrol", "show", "job", f"{job}_0")
    same(tmp_path / "m.zarr", ready.root / "slow.zarr")


def test_tasks_that_put_themselves_back(slurm: Cluster, ready: Ready, tmp_path: Path) -> None:
    """As when the time limit warns: each ends with 75 and requeues itself, and itself alone."""
    job = slurm.submit("--array=0-1", JOBS / "array.sbatch", *ready.explain(tmp_path / "m.zarr", SLOW))
    slurm.until(in_mid_shard(tmp_path / "m.zarr", ready))
    for task in (1, 0):
        slurm("scancel", "--signal=TERM", "--batch", f"{job}_{task}")
    slurm.until(lambda: slurm.finished(job), 120)
    for task in (0, 1):
        assert "Restarts=1" in slurm("scontrol", "show", "job", f"{job}_{task}")
    same(tmp_path / "m.zarr", ready.root / "slow.zarr")


@pytest.mark.parametrize("partition", ["grace", "low"])
def test_a_task_that_is_preempted(slurm: Cluster, ready: Ready, tmp_path: Path, partition: str) -> None:
    """`grace` sends a signal and waits, `low` kills at once."""
    command = ready.explain(tmp_path / "m.zarr", SLOW)
    before = slurm.log().count("stopped by SIGTERM; what is finished is kept")
    job = slurm.submit("--array=0-1", f"--partition={partition}", JOBS / "array.sbatch", *command)
    slurm.until(in_mid_shard(tmp_path / "m.zarr", ready))
    urgent = slurm("sbatch", "--parsable", "-p", "main", "-N2", "-n2", "-c2", "--mem=500", "--wrap", "srun sleep 1")
    slurm.until(lambda: slurm.finished(urgent))
    if partition == "grace":
        slurm.until(lambda: slurm.log().count("stopped by SIGTERM; what is finished is kept") > before)
        assert list((tmp_path / "m.zarr/_part/lime").rglob("*.part"))  # its finished patches
    slurm.until(lambda: slurm.finished(job), 120)
    assert "Restarts=" in slurm("scontrol", "show", "job", f"{job}_0")
    same(tmp_path / "m.zarr", ready.root / "slow.zarr")


def test_a_task_that_outlives_its_node(slurm: Cluster, ready: Ready, tmp_path: Path) -> None:
    """Its node hangs, is given up for dead, and comes back while another has its shard: two tasks on one shard."""
    command = ready.explain(tmp_path / "m.zarr", SLOW)
    script = tmp_path / "one.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --requeue\nexec histoxai {' '.join(map(str, command))} --shard 0\n")
    job = slurm.submit(f"--output={tmp_path}/one.log", "--open-mode=append", script)
    slurm.until(in_mid_shard(tmp_path / "m.zarr", ready))
    node = slurm.node(job)
    first = _processes(tmp_path / "m.zarr")
    assert len(first) == 1
    (daemon,) = [p for p in _named("slurmd") if f"-N\0{node}\0" in _cmdline(p) and _uses(p, slurm.env["SLURM_CONF"])]
    os.kill(daemon, signal.SIGKILL)
    os.kill(first[0], signal.SIGSTOP)
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    slurm.until(lambda: len(_processes(tmp_path / "m.zarr")) == 2)
    time.sleep(5)  # the second one has loaded its network and begun
    assert len(_processes(tmp_path / "m.zarr")) == 2
    os.kill(first[0], signal.SIGCONT)
    slurm.until(lambda: slurm.finished(job), 120)
    slurm.until(lambda: not _processes(tmp_path / "m.zarr"))
    subprocess.run(["slurmd", "-N", node], env=slurm.env, check=True)  # it is back in service by registering
    slurm("histoxai", *command, "--quiet")
    same(tmp_path / "m.zarr", ready.root / "slow.zarr")


def _processes(output: Path) -> list[int]:
    """Pythons that write this store."""
    return [p for p in _named("python") + _named("histoxai") if str(output) in _cmdline(p)]


def _named(word: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if re.search(word, os.readlink(path / "exe")):
                found.append(int(path.name))
        except OSError:
            continue
    return sorted(set(found))


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _uses(pid: int, conf: str) -> bool:
    return f"SLURM_CONF={conf}\0" in Path(f"/proc/{pid}/environ").read_text()
