"""Benchmarks: rows of name, ours_s, other_s, ratio, goal. Ratios count; absolute times belong to a machine."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from histoxai.progress import Silent
from histoxai.settings import Ingest, Work
from histoxai.stages.ingest import ingest
from histoxai.store.schema import ArraySpec

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data" / "diagset" / "blobs" / "S" / "20x"


def tissue(n: int, size: int) -> np.ndarray:
    """(n, size, size, 3) uint8: sample patches side by side, each shifted differently."""
    files = sorted(SAMPLES.rglob("*.npy"))
    tiles = np.concatenate([np.load(f) for f in files])
    grid = -(-size // tiles.shape[1])
    rng = np.random.default_rng(0)
    out = np.empty((n, size, size, 3), np.uint8)
    for image in out:
        picked = tiles[rng.integers(0, len(tiles), (grid, grid))]
        whole = picked.transpose(0, 2, 1, 3, 4).reshape(grid * tiles.shape[1], -1, 3)
        image[:] = whole[:size, :size]
    return out


def write_tree(root: Path, images: np.ndarray, blob: int = 256) -> None:
    """Images as a DiagSet tree of one scan."""
    folder = root / "blobs" / "S" / "20x" / "scan" / "N"
    folder.mkdir(parents=True)
    for i in range(0, len(images), blob):
        np.save(folder / f"scan.blob.{i // blob:05d}.npy", images[i : i + blob])


def bare_write(images: np.ndarray, path: Path) -> float:
    """Seconds that zarr-python takes for the same array with the same codec, shard by shard, from memory."""
    zarr.open_group(path, mode="w")
    spec = ArraySpec("images", images.shape, np.uint8, 512)
    array = spec.create(path)
    started = time.perf_counter()
    for k in range(0, len(images), 512):
        array[k : k + 512] = images[k : k + 512]
    return time.perf_counter() - started


def peak_megabytes(source: Path, output: Path) -> float:
    """Peak resident memory of `histoxai ingest` in a process of its own, in MB.

    From VmHWM, which starts anew with the program; ru_maxrss would count what this process held when it forked.
    """
    code = (
        "import sys\nfrom histoxai.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])\n"
    )
    arguments = ["ingest", str(source), "-o", str(output), "-q", "--classes", "N", "--json"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) / 1024


def bench_ingest(work: Path) -> list[dict[str, Any]]:
    """Rate against a bare zarr write (on our side reading the source counts too), and memory at ten times the data."""
    images = tissue(1536, 256)
    write_tree(work / "source", images)
    ours, other = [], []
    for _ in range(5):
        other.append(bare_write(images, work / "bare.zarr"))
        started = time.perf_counter()
        ingest(work / "source", work / "ours.zarr", Ingest(classes=("N",)), Silent(), Work(force=True))
        ours.append(time.perf_counter() - started)
        shutil.rmtree(work / "bare.zarr")
    a, b = statistics.median(ours), statistics.median(other)
    rows = [{"name": "ingest, rate to bare zarr", "ours_s": a, "other_s": b, "ratio": b / a, "goal": ">= 0.7"}]
    write_tree(work / "small", tissue(512, 128))
    write_tree(work / "large", tissue(5120, 128))
    small, large = (peak_megabytes(work / n, work / f"{n}.zarr") for n in ("small", "large"))
    # seconds are megabytes in this row
    rows.append(
        {"name": "ingest, peak MB at 10x", "ours_s": large, "other_s": small, "ratio": large / small, "goal": "<= 1.2"}
    )
    return rows


def step_seconds(keep: bool) -> float:
    """Median seconds of a training step of the study's CNN at 224 px, in a process of its own."""
    code = (
        "import time, statistics, torch\n"
        "from histoxai.resources import keep_freed_memory\n"
        "from histoxai.models.classifiers import ThesisCNN\n"
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
    """A training step with and without `keep_freed_memory`."""
    del work
    ours, other = [], []
    for _ in range(3):
        other.append(step_seconds(False))
        ours.append(step_seconds(True))
    a, b = statistics.median(ours), statistics.median(other)
    return [{"name": "training step, freed memory kept", "ours_s": a, "other_s": b, "ratio": b / a, "goal": ">= 1.0"}]


BENCHES = {"ingest": bench_ingest, "malloc": bench_malloc}


def main() -> None:
    """Run one benchmark in a temporary folder and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = BENCHES[chosen.name](Path(folder))
    if chosen.json:
        print(json.dumps(rows))
        return
    print(f"{'name':32} {'ours_s':>9} {'other_s':>9} {'ratio':>7}  goal")
    for r in rows:
        print(f"{r['name']:32} {r['ours_s']:9.2f} {r['other_s']:9.2f} {r['ratio']:7.2f}  {r['goal']}")


if __name__ == "__main__":
    main()
