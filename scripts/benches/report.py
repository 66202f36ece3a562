"""Measure the report of 5,000 patches and six methods: seconds, memory and size, beside a fifth of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benches.common import peak_megabytes, row, tissue

PATCHES = int(os.environ.get("PATCHES", 5000))
SIZE, SCANS = 128, 50
CLASSES = ("A", "N", "R1", "R2", "R3")
METHODS = "saliency,ixg,gradcam,random,center,edges"
LIMIT = 25_000_000


def histoxai(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "histoxai", *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL
    )


def write(root: Path, n: int) -> Path:
    """Write a DiagSet tree of n patches from many scans."""
    images, each = tissue(n, SIZE), n // (SCANS * len(CLASSES))
    for at, (scan, name) in enumerate(np.ndindex(SCANS, len(CLASSES))):
        folder = root / "blobs" / "S" / "20x" / f"scan{scan}" / CLASSES[name]
        folder.mkdir(parents=True)
        np.save(folder / f"scan{scan}.blob.0.npy", images[at * each : (at + 1) * each])
    return root


def scored(work: Path, n: int, models: Path) -> Path:
    """Make a scores store of n patches with all its parents; models: run folders trained on such patches."""
    work.mkdir(parents=True)
    patches, maps, masks = work / "patches.zarr", work / "maps.zarr", work / "masks.zarr"
    histoxai("ingest", write(work / "tree", n), "-o", patches, "--classes", ",".join(CLASSES), "--mpp", 0.5)
    if not models.exists():
        histoxai("augment", patches, "-o", models / "split.zarr")
        histoxai("train-cls", models / "split.zarr", "-o", models / "cls", "--epochs", 1, "--allow-leakage")
        histoxai("ingest", nuclei(models / "tree"), "-o", models / "nuclei.zarr")
        histoxai("train-seg", models / "nuclei.zarr", "-o", models / "seg", "--width", 4, "--epochs", 2)
    histoxai("masks", patches, "--model", models / "seg", "-o", masks, "--split", "all")
    histoxai("explain", patches, "--model", models / "cls", "-o", maps, "--split", "all", "--method", METHODS)
    histoxai("score", maps, "--masks", masks, "-o", work / "scores.zarr", "--jsonl")
    return work / "scores.zarr"


def nuclei(root: Path) -> Path:
    """Write a PanNuke tree in which dark pixels are nuclei."""
    images = tissue(24, SIZE)
    for fold, some in enumerate(np.split(images, 3), 1):
        masks = np.zeros((*some.shape[:3], 6), np.uint8)
        masks[..., 0] = some.mean(axis=-1) < np.quantile(some.mean(axis=-1), 0.2)
        masks[:, :8, :8, 2] = 1
        masks[..., 5] = masks[..., :5].max(axis=-1) == 0
        folder = root / f"fold{fold}"
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", some)
        np.save(folder / "masks.npy", masks)
    return root


def bench_report(work: Path) -> list[dict[str, Any]]:
    """Compare our figures with the limits of a report; KEEP names a folder whose stores are used again."""
    work = Path(os.environ.get("KEEP", work))
    many, few = (work / name / "scores.zarr" for name in ("many", "few"))
    for path, n in ((many, PATCHES), (few, PATCHES // 5)):
        if not path.exists():
            scored(path.parent, n, work / "models")
    spent = []
    for k in range(int(os.environ.get("ROUNDS", 3))):
        started = time.perf_counter()
        histoxai("report", many, "-o", work / f"report{os.getpid()}-{k}", "--workers", 2)
        spent.append(time.perf_counter() - started)
    page = work / f"report{os.getpid()}-0" / "index.html"
    peaks = [peak_megabytes("report", p, "-o", work / f"peak{os.getpid()}-{p.parent.name}") for p in (many, few)]
    seconds, size = statistics.median(spent), page.stat().st_size
    return [
        row(f"report of {PATCHES} patches x 6, 2 minutes", seconds, 120.0, 120.0 / seconds, ">= 1"),
        row(f"memory, MB: {PATCHES} and {PATCHES // 5} patches", peaks[0], peaks[1], peaks[1] / peaks[0], "about 1"),
        row("page, MB: ours and its limit", size / 1e6, LIMIT / 1e6, LIMIT / size, ">= 1"),
    ]
