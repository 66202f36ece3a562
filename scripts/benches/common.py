"""What the benchmarks share: tissue to work on, and a command's memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data" / "diagset" / "blobs" / "S" / "20x"


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


def peak_megabytes(*arguments: object) -> float:
    """Peak resident memory of a histoxai command in a process of its own, in MB.

    From VmHWM, which starts anew with the program; ru_maxrss would count what this process held when it forked.
    """
    code = (
        "import sys\nfrom histoxai import resources\nfrom histoxai.cli import app\n"
        "resources.reset_peak_memory = lambda: None\n"  # of the whole command, not of its last shard
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) / 1024


def row(name: str, ours: float, other: float, ratio: float, goal: str) -> dict[str, Any]:
    """One line of a benchmark; a row that compares no seconds says so in its name."""
    return {"name": name, "ours_s": ours, "other_s": other, "ratio": ratio, "goal": goal}
