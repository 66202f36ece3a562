"""SIGKILL at random moments, and crowds on the same shards: the store is the one of a single quiet process."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from histoxai.store.shards import Store
from tests.conftest import CLASSES, Mini, array_files
from tests.faults.crowd import start
from tests.faults.whole import Case, nothing_wrong
from tests.sampling import RANDOM_KILLS, sized

pytestmark = pytest.mark.faults
QUICK = [
    *("-O", "ig.steps=4", "-O", "nt.steps=2", "-O", "nt.samples=2"),
    *("-O", "lime.samples=16", "-O", "lime.max_dist=10"),
]
MORE = [
    *("--method", "saliency,random,layercam,eigencam,ig,rise,occlusion,kernelshap,null=gradcam"),
    *("--random-weights", "null", "-O", "ig.steps=auto", "-O", "ig.max_steps=32", "-O", "rise.masks=16"),
    *("-O", "occlusion.window=16", "-O", "occlusion.stride=16", "-O", "kernelshap.samples=8"),
    *("-O", "kernelshap.max_dist=10", "--per-class", 4, "--shard-size", 4),
]
PROBES = [
    *("--faithfulness", "--probes", "deletion,infidelity,sensitivity", "--steps", 2, "--squares", 10),
    *("--perturbations", 1, "--sanity", 4),
]


def commands(mini: Mini) -> dict[str, list[object]]:
    return {
        "ingest": ["ingest", mini.diagset, "--classes", ",".join(CLASSES), "--mpp", 0.25, "--shard-size", 8],
        "masks": ["masks", mini.balanced, "--model", mini.seg, "--shard-size", 4],
        "explain": ["explain", mini.balanced, "--model", mini.cls, *QUICK, "--per-class", 4, "--shard-size", 2],
        "explain more": ["explain", mini.balanced, "--model", mini.cls, *MORE],
        "score": ["score", mini.maps, "--masks", mini.masks, "--shard-size", 4],
        "score more": ["score", mini.maps, "--masks", mini.masks, "--shard-size", 8, "--model", mini.cls, *PROBES],
    }


def quiet_run(command: list[object], folder: Path) -> Case:
    # the first one also starts the server
    start([*command, "-o", folder / "whole.zarr", "--dry-run"], folder / "whole.log").join(120)
    started = time.monotonic()
    process = start([*command, "-o", folder / "whole.zarr", "--quiet"], folder / "whole.log")
    process.join(120)
    assert process.exitcode == 0, (folder / "whole.log").read_text()
    seconds = time.monotonic() - started
    return Case(command, array_files(folder / "whole.zarr"), Store(folder / "whole.zarr").digest(), seconds)


@pytest.mark.parametrize("verb", list(RANDOM_KILLS))
def test_kills_at_random_moments(mini: Mini, tmp_path: Path, verb: str) -> None:
    (tmp_path / "whole").mkdir()
    case = quiet_run(commands(mini)[verb], tmp_path / "whole")
    rng, place, log = random.Random(verb), tmp_path / "place", tmp_path / "log"
    place.mkdir()
    output = place / "o.zarr"
    kills = 0
    while kills < sized(RANDOM_KILLS[verb]):
        process = start(case.to(output), log)
        # runs get shorter as the store fills up: half of the kills fall into the first third of a whole run
        time.sleep(case.seconds * rng.choice([0.3, 1.0]) * rng.random())
        process.kill()  # nothing, where it has just ended by itself
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        if nothing_wrong(output, case):
            shutil.rmtree(output)
    process = start(case.to(output), log)
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert array_files(output) == case.whole
    assert Store(output).digest() == case.digest
    assert [p.name for p in place.iterdir()] == ["o.zarr"]
    assert not [p for p in output.rglob("*") if p.name.endswith((".tmp", ".old", ".part"))]
    assert not (output / "_part").exists()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("murder", [False, True], ids=["all live", "half are killed"])
def test_eight_processes_on_the_same_shards(mini: Mini, tmp_path: Path, murder: bool) -> None:
    (tmp_path / "whole").mkdir()
    case = quiet_run(commands(mini)["explain"], tmp_path / "whole")
    output, log = tmp_path / "o.zarr", tmp_path / "log"
    crowd = [start(case.to(output), log) for _ in range(8)]
    rng = random.Random(0)
    for victim in crowd[::2] if murder else []:
        time.sleep(rng.random() * case.seconds)
        victim.kill()
    deadline = time.monotonic() + 240
    for process in crowd:
        process.join(max(0.1, deadline - time.monotonic()))
    codes = [process.exitcode for process in crowd]
    assert set(codes[1::2]) == {0}, log.read_text()
    assert set(codes[::2]) <= ({0, -9} if murder else {0}), log.read_text()
    process = start(case.to(output), log)
    process.join(60)
    assert process.exitcode == 0
    assert array_files(output) == case.whole
    assert Store(output).digest() == case.digest
    assert not [p for p in output.rglob("*") if p.name.endswith((".tmp", ".part"))]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
