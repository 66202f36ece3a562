"""Compare tiles of whole slides with a bare loop of OpenSlide's read_region and the same zarr write."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benches.common import row
from benches.ingest import bare_write
from histoxai.core.progress import Silent
from histoxai.ingest.formats.slide import SlideReader
from histoxai.settings import Ingest, Work
from histoxai.stages.ingest import ingest

ROUNDS = 5


def bare_loop(path: Path, places: list[tuple[int, int]], size: int) -> np.ndarray:
    """Read tiles (n, size, size, 3) uint8 of the full resolution with OpenSlide alone."""
    import openslide

    images = np.empty((len(places), size, size, 3), np.uint8)
    with openslide.OpenSlide(path) as slide:
        for image, place in zip(images, places, strict=True):
            image[:] = np.asarray(slide.read_region(place, 0, (size, size)).convert("RGB"))
    return images


def candidates() -> float:
    """Measure the layout and tissue check of 100,000 tiles on a mask of 4,096 px, the largest possible: seconds."""
    from histoxai.ingest.tissue import find_tissue, shares

    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(120, 255, (64, 64, 3)), np.ones((64, 64, 1))).astype(np.uint8)
    started = time.perf_counter()
    x, y = (v.ravel() for v in np.meshgrid(np.arange(317) * 12.7, np.arange(317) * 12.7))
    shares(find_tissue(image), x, y, (12.7, 12.7))
    return time.perf_counter() - started


def bench_slides(work: Path) -> list[dict[str, Any]]:
    """Compare the rates of reading and of the whole `ingest` with the bare loop over the same tiles, by slide.

    With tiles that overlap, so that small slides have enough of them, and all of them, since looking for tissue reads
    a small slide as a whole once more.
    """
    folder = Path(os.environ.get("HISTOXAI_TEST_DATA", "")) / "slides"
    if not os.environ.get("HISTOXAI_TEST_DATA") or not folder.is_dir():
        return [row("skipped: HISTOXAI_TEST_DATA has no slides", 0, 0, 0, "-")]
    rows = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".svs", ".tiff")):
        settings = Ingest(mpp=0.5, size=256, overlap=128, min_tissue=0.0)
        index = SlideReader(path, settings).index
        places = list(zip(index.extra["x"], index.extra["y"], strict=True))
        times: dict[str, list[float]] = {"read": [], "bare": [], "ingest": [], "write": []}
        for _ in range(ROUNDS):
            started = time.perf_counter()
            images = bare_loop(path, places, 256)
            times["bare"].append(time.perf_counter() - started)
            times["write"].append(times["bare"][-1] + bare_write(images, work / "bare.zarr"))
            started = time.perf_counter()
            ours, _ = SlideReader(path, settings).read(0, len(places))
            times["read"].append(time.perf_counter() - started)
            assert np.array_equal(ours, images)
            started = time.perf_counter()
            ingest(path, work / "ours.zarr", settings, Silent(), Work(force=True))
            times["ingest"].append(time.perf_counter() - started)
            shutil.rmtree(work / "bare.zarr")
        t = {name: statistics.median(v) for name, v in times.items()}
        name = path.stem.split("-")[0]
        rows.append(row(f"{name}, read to bare loop", t["read"], t["bare"], t["bare"] / t["read"], ">= 0.8"))
        rows.append(
            row(f"{name}, ingest to loop and write", t["ingest"], t["write"], t["write"] / t["ingest"], ">= 0.8")
        )
    rows.append(row("100k tiles, tissue, to a second", s := candidates(), 1.0, 1 / s, ">= 0.8"))
    return rows
