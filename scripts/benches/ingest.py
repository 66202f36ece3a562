"""Compare ingest with a bare zarr write, with bare decoding, and with one worker."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zarr
from PIL import Image

from benches.common import peak_megabytes, row, tissue, write_tree
from histoxai.core.progress import Silent
from histoxai.settings import Ingest, Work
from histoxai.stages.ingest import ingest
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Store

SIZE, SHARD = 256, 256


def bare_write(images: np.ndarray, path: Path) -> float:
    """Measure zarr-python: seconds to write the same array from memory, with the same codec, shard by shard."""
    zarr.open_group(path, mode="w")
    spec = ArraySpec("images", images.shape, np.uint8, 512)
    array = spec.create(path)
    started = time.perf_counter()
    for k in range(0, len(images), 512):
        array[k : k + 512] = images[k : k + 512]
    return time.perf_counter() - started


def write_jpegs(root: Path, images: np.ndarray, per_scan: int = 128) -> None:
    """Write images as JPEG files of one class and many scans."""
    for k, image in enumerate(images):
        place = root / "N" / f"scan{k // per_scan:03}" / f"{k:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place, quality=90)


def bare_decoding(files: list[Path], path: Path) -> float:
    """Measure a bare loop: seconds to decode files one by one and write them with zarr-python, shard by shard."""
    zarr.open_group(path, mode="w")
    array = ArraySpec("images", (len(files), SIZE, SIZE, 3), np.uint8, SHARD).create(path)
    started = time.perf_counter()
    for k in range(0, len(files), SHARD):
        array[k : k + SHARD] = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files[k : k + SHARD]])
    return time.perf_counter() - started


def ours(source: Path, output: Path, workers: int = 1, threads: int = 2) -> float:
    """Return the seconds from the beginning of the first shard to the end of the last, without start-up."""
    work = Work(force=output.exists(), workers=workers, threads=threads)
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": str(threads)}):  # as the command sets it
        ingest(source, output, Ingest(classes=("N",), shard_size=SHARD), Silent(), work)
    ends = []
    for record in Store(output).completeness()["images"]["records"]:
        end = (output / "_done" / "images" / f"{record['shard']}.json").stat().st_mtime
        ends.append((end - record["seconds"], end))
    return max(b for _, b in ends) - min(a for a, _ in ends)


def jpeg_rows(work: Path) -> list[dict[str, Any]]:
    """Compare a folder of JPEG files with bare decoding and writing, and two workers with one."""
    write_jpegs(work / "jpegs", tissue(2048, SIZE))
    files = sorted((work / "jpegs").rglob("*.jpg"))
    rounds = [
        (
            bare_decoding(files, work / "bare.zarr"),
            ours(work / "jpegs", work / "j1.zarr"),
            ours(work / "jpegs", work / "j1.zarr", threads=1),
            ours(work / "jpegs", work / "j2.zarr", workers=2, threads=1),
        )
        for _ in range(3)
    ]
    bare, one, alone, two = (statistics.median(column) for column in zip(*rounds, strict=True))
    return [
        row("JPEG folder, to bare decoding", one, bare, bare / one, ">= 0.8"),
        row("two workers, to one", two, alone, alone / two, ">= 1.7"),
    ]


def bench_ingest(work: Path) -> list[dict[str, Any]]:
    """Compare the rate with a bare zarr write (ours also reads the source), and memory with a tenth of the data."""
    images = tissue(1536, 256)
    write_tree(work / "source", images)
    ours, other = [], []
    for _ in range(5):
        other.append(bare_write(images, work / "bare.zarr"))
        started = time.perf_counter()
        ingest(work / "source", work / "ours.zarr", Ingest(classes=("N",)), Silent(), Work(force=True, threads=2))
        ours.append(time.perf_counter() - started)
        shutil.rmtree(work / "bare.zarr")
    a, b = statistics.median(ours), statistics.median(other)
    rows = [row("ingest, rate to bare zarr", a, b, b / a, ">= 0.7")]
    rows += jpeg_rows(work)
    write_tree(work / "small", tissue(1000, 128))
    write_tree(work / "large", tissue(10_000, 128))
    small, large = (
        peak_megabytes("ingest", work / n, "-o", work / f"{n}.zarr", "-q", "--classes", "N", "--json")
        for n in ("small", "large")
    )
    rows.append(row("ingest, peak MB at 10x", large, small, large / small, "<= 1.2"))
    return rows
