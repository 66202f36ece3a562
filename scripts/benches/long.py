"""Take 200,000 tiny patches through every stage, and compare memory with that for a tenth of them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benches.common import peak_megabytes, row
from benches.report import histoxai, nuclei

PATCHES = int(os.environ.get("PATCHES", 200_000))
SIZE, SCANS = 32, 500
GOAL = 4.0  # of memory at ten times the patches: ids, hashes and counts are held, patches and maps are not


def write(folder: Path, n: int) -> Path:
    """Write .npy files of random patches: noise of two colours with dark spots, no two alike."""
    if (folder / "groups.npy").exists():
        return folder
    folder.mkdir(parents=True)
    rng, label = np.random.default_rng(0), np.arange(n) % 2
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (n, SIZE, SIZE, 3))
    for start in range(0, n, 10_000):
        some = label[start : start + 10_000]
        colour = np.where(some[:, None], (170, 90, 160), (225, 170, 200))[:, None, None]
        noise = rng.normal(0, 25, (len(some), SIZE, SIZE, 1)) + rng.normal(0, 6, (len(some), SIZE, SIZE, 3))
        images[start : start + 10_000] = (colour + noise).clip(0, 255).astype(np.uint8)
    images.flush()
    np.save(folder / "labels.npy", np.array(["A", "R1"])[label])
    np.save(folder / "groups.npy", np.array([f"scan{k}" for k in range(SCANS)])[(np.arange(n) // 2) % SCANS])
    return folder


def stages(work: Path, models: Path) -> dict[str, list[object]]:
    """Return the command of every stage, in order."""
    every = ["--split", "all"]
    return {
        "ingest": ["ingest", work / "source", "-o", work / "p", "--mpp", 0.5],
        "augment": ["augment", work / "p", "-o", work / "b"],
        "audit": ["audit", work / "b"],
        "train-cls": [
            *("train-cls", work / "b", "-o", work / "run", "--arch", "resnet18", "--epochs", 1),
            *("--batch-size", 256, "--allow-leakage"),
        ],
        "masks": ["masks", work / "p", "--model", models / "seg", "-o", work / "k", *every],
        "predict": ["predict", work / "p", "--model", models / "cls", "-o", work / "q"],
        "explain": [
            *("explain", work / "p", "--model", models / "cls", "-o", work / "m"),
            *("--method", "gradcam", "--shard-size", 512, *every),
        ],
        "score": ["score", work / "m", "--masks", work / "k", "-o", work / "s", "--shard-size", 512],
        "report": ["report", work / "s", "-o", work / "r"],
        "info": ["info", work / "m", "--verify"],
    }


def bench_long(work: Path) -> list[dict[str, Any]]:
    """Compare each stage's peak memory with a tenth of the data. KEEP names a work folder, SKIP stages to omit."""
    skipped = os.environ.get("SKIP", "").split(",")
    work = Path(os.environ.get("KEEP", work))
    models, rows, peaks = work / "models", [], {}
    for n in (PATCHES // 10, PATCHES):
        place = work / str(n)
        write(place / "source", n)
        if not models.exists():
            histoxai("ingest", nuclei(models / "tree"), "-o", models / "nuclei.zarr")
            histoxai("train-seg", models / "nuclei.zarr", "-o", models / "seg", "--width", 4, "--epochs", 2)
            write(models / "source", 2000)
            histoxai("ingest", models / "source", "-o", models / "p", "--mpp", 0.5)
            histoxai("augment", models / "p", "-o", models / "b")
            histoxai(*("train-cls", models / "b", "-o", models / "cls", "--arch", "resnet18", "--epochs", 1))
        for name, command in stages(place, models).items():
            if name in skipped:
                continue
            started = time.perf_counter()
            peaks[name, n] = peak_megabytes(*command)
            seconds = time.perf_counter() - started
            print(f"{n} {name}: {seconds:.0f} s, {peaks[name, n]:.0f} MB", file=sys.stderr, flush=True)
            if n == PATCHES:
                few = peaks[name, PATCHES // 10]
                ratio = peaks[name, n] / few
                rows.append(row(f"{name}: MB for {n:,} and a tenth", peaks[name, n], few, ratio, f"<= {GOAL}"))
    return rows
