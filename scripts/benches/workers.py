"""Measure array jobs: the gain of worker processes, the cost of shards, and memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benches.common import inputs, peak_megabytes, row, work_loops_timed
from histoxai.core.progress import Silent
from histoxai.explain.inputs import ExplainInputs
from histoxai.networks.inference import pick_device
from histoxai.settings import Explain, Work
from histoxai.stages import explain as stage
from histoxai.store.shards import Store

SIZE = 96
OPTIONS = ("ig.steps=32",)
# 16 patches a pass, forward and back, as IG does; how many passes it takes to tell
_NETWORK = """
import sys, time, torch
from histoxai.networks.inference import pick_device
from histoxai.networks.thesis_cnn import ThesisCNN
torch.manual_seed(0)
pick_device("cpu", 0)
net = ThesisCNN(2, (96, 96)).to(memory_format=torch.channels_last).eval().requires_grad_(False)
x = torch.rand(16, 3, 96, 96).contiguous(memory_format=torch.channels_last).requires_grad_()
def step():
    torch.autograd.grad(net(x)[:, 0].sum(), x)
step()
print("ready", flush=True)
sys.stdin.readline()
started = time.perf_counter()
for _ in range(int(sys.argv[1])):
    step()
print(time.perf_counter() - started)
"""


def network_seconds(processes: int, steps: int) -> float:
    """Measure `steps` network passes shared by single-thread processes, once all are ready: wall seconds."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _NETWORK, str(steps // processes)]
    crew = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in crew:
        assert process.stdout is not None
        process.stdout.readline()
    for process in crew:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return max(float(process.communicate()[0]) for process in crew)


def explain_seconds(patches: Path, model: Path, output: Path, workers: int) -> float:
    """Return the seconds from the beginning of the first IG shard to the end of the last, without start-up."""
    command = ["explain", patches, "--model", model, "-o", output, "--method", "ig", "-O", OPTIONS[0]]
    more = ["--shard-size", "16", "--workers", workers, "--threads", "1", "--quiet", "--force"]
    subprocess.run(
        [sys.executable, "-m", "histoxai", *map(str, [*command, *more])], check=True, stdout=subprocess.DEVNULL
    )
    ends, starts = [], []
    for record in Store(output).completeness()["ig"]["records"]:
        end = (output / "_done" / "ig" / f"{record['shard']}.json").stat().st_mtime
        ends.append(end)
        starts.append(end - record["seconds"])
    return max(ends) - min(starts)


def working_seconds(patches: Path, model: Path, output: Path, shards: int | None) -> float:
    """Measure the work loop, whole or one `--shard` after another, without loading and checking: seconds."""
    chosen = Explain(methods=("ig",), options=OPTIONS, device="cpu", shard_size=16)
    asked = [None] if shards is None else [str(k) for k in range(shards)]
    with work_loops_timed() as spent:
        for shard in asked:
            stage.explain(ExplainInputs(patches, model), output, chosen, Silent(), Work(shard=shard))
    return sum(spent)


def bench_workers(work: Path) -> list[dict[str, Any]]:
    """Compare the gain of two workers with the bare network's gain, and shards with no shards."""
    torch.set_num_threads(2)
    pick_device("cpu", 0)
    patches, model = inputs(work, 96, "p")
    bare, ours = [], []
    for _ in range(3):
        bare.append(network_seconds(1, 120) / network_seconds(2, 120))
        ours.append(explain_seconds(patches, model, work / "m1", 1) / explain_seconds(patches, model, work / "m2", 2))
    a, b = statistics.median(ours), statistics.median(bare)
    rows = [row("two workers, gain to the network's", a, b, a / b, ">= 0.95")]
    whole, cut = [], []
    for k in range(3):
        whole.append(working_seconds(patches, model, work / f"whole{k}", None))
        cut.append(working_seconds(patches, model, work / f"cut{k}", 6))
    a, b = statistics.median(cut), statistics.median(whole)
    rows.append(
        {"name": "shard by shard, to all at once", "ours_s": a, "other_s": b, "ratio": a / b, "goal": "<= 1.05"}
    )
    return rows


def bench_memory(work: Path) -> list[dict[str, Any]]:
    """Compare the peak memory of `explain` over 1,280 patches with that over 128."""
    peaks = []
    for name, n in (("small", 128), ("large", 1280)):
        patches, model = inputs(work, n, name)
        command = [
            "explain",
            patches,
            "--model",
            model,
            "-o",
            work / f"{name}-maps.zarr",
            "--method",
            "gradcam",
            "--json",
        ]
        peaks.append(peak_megabytes(*command))
    return [row("peak MB at 10x the patches", peaks[1], peaks[0], peaks[1] / peaks[0], "<= 1.05")]
