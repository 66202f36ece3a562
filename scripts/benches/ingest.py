"""Ingest against a bare zarr write."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benches.common import peak_megabytes, row, tissue, write_tree
from histoxai.progress import Silent
from histoxai.settings import Ingest, Work
from histoxai.stages.ingest import ingest
from histoxai.store.schema import ArraySpec


def bare_write(images: np.ndarray, path: Path) -> float:
    """Seconds that zarr-python takes for the same array with the same codec, shard by shard, from memory."""
    zarr.open_group(path, mode="w")
    spec = ArraySpec("images", images.shape, np.uint8, 512)
    array = spec.create(path)
    started = time.perf_counter()
    for k in range(0, len(images), 512):
        array[k : k + 512] = images[k : k + 512]
    return time.perf_counter() - started


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
    rows = [row("ingest, rate to bare zarr", a, b, b / a, ">= 0.7")]
    write_tree(work / "small", tissue(512, 128))
    write_tree(work / "large", tissue(5120, 128))
    small, large = (
        peak_megabytes("ingest", work / n, "-o", work / f"{n}.zarr", "-q", "--classes", "N", "--json")
        for n in ("small", "large")
    )
    rows.append(row("ingest, peak MB at 10x", large, small, large / small, "<= 1.2"))
    return rows
