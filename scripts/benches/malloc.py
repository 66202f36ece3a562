"""Compare training with and without keeping freed memory in the process."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benches.common import row


def step_seconds(keep: bool) -> float:
    """Measure a training step of the study's CNN at 224 px in its own process: median seconds."""
    code = (
        "import time, statistics, torch\n"
        "from histoxai.core.resources import keep_freed_memory\n"
        "from histoxai.networks.thesis_cnn import ThesisCNN\n"
        f"keep_freed_memory() if {keep} else None\n"
        "torch.manual_seed(0)\n"
        "net = ThesisCNN(5, (224, 224)).to(memory_format=torch.channels_last)\n"
        "x = torch.rand(16, 3, 224, 224).contiguous(memory_format=torch.channels_last)\n"
        "adam = torch.optim.Adam(net.parameters(), fused=True)\n"
        "times = []\n"
        "for _ in range(8):\n"
        "    t = time.perf_counter()\n"
        "    loss = torch.nn.functional.cross_entropy(net(x), torch.arange(16) % 5)\n"
        "    adam.zero_grad(); loss.backward(); adam.step()\n"
        "    times.append(time.perf_counter() - t)\n"
        "print(statistics.median(times[2:]))\n"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def bench_malloc(work: Path) -> list[dict[str, Any]]:
    """Compare a training step with and without `keep_freed_memory`."""
    del work
    ours, other = [], []
    for _ in range(3):
        other.append(step_seconds(False))
        ours.append(step_seconds(True))
    a, b = statistics.median(ours), statistics.median(other)
    return [row("training step, freed memory kept", a, b, b / a, ">= 1.0")]
