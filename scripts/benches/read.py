"""Compare reading: single patches, a training loader, and the maps that `score` reads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numcodecs import blosc
from torch.utils.data import DataLoader, Dataset

from benches.common import row, tissue, write_shards
from histoxai.core import provenance, resources
from histoxai.networks.inference import to_tensor
from histoxai.store.create import create_or_match
from histoxai.store.patches import Patches, image_item
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store
from histoxai.train import dataset

PATCHES, MAPS, BATCH = 2048, 192, 32


def make_patches(path: Path) -> Patches:
    """Write 2,048 patches of 256 px as ingest does."""
    images = tissue(PATCHES, 256)
    header = provenance.header("patches/2", {}, 0, {"source": {"path": "x", "digest": "d"}})
    index = {
        "label": np.zeros(PATCHES, np.int16),
        "group": np.array(["g"] * PATCHES),
        "patch_id": np.array([str(i) for i in range(PATCHES)]),
        "split": np.ones(PATCHES, np.uint8),
    }
    item = image_item(PATCHES, (256, 256), 512, False, {})
    store = create_or_match(path, header, index, [item], attrs={"classes": ["a"], "mpp": None})
    write_shards(store, item, {"images": images})
    return Patches(path)


class Plain(Dataset):
    """Read one patch of a Zarr array per item, as most users write it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array: Any = None

    def __len__(self) -> int:
        return PATCHES

    def __getitem__(self, i: int) -> torch.Tensor:
        if self._array is None:
            self._array = zarr.open_group(self._path, mode="r", use_consolidated=False)["images"]
        return torch.from_numpy(self._array[int(i)])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(name: str, ours: Callable[[], object], other: Callable[[], object], goal: str, share: float = 1.0) -> Any:
    """Compare medians of five alternating rounds; share: the part of our work that `other` does."""
    a, b = [], []
    for _ in range(5):
        a.append(seconds(ours))
        b.append(seconds(other) / share)
    ours_s, other_s = statistics.median(a), statistics.median(b)
    return row(name, ours_s, other_s, other_s / ours_s, goal)


def bench_read(work: Path) -> list[dict[str, Any]]:
    """Compare our rate with `z[i]`, `oindex`, a loader on `z[i]`, and bare decompression."""
    resources.keep_freed_memory()
    patches = make_patches(work / "p.zarr")
    array = zarr.open_group(work / "p.zarr", mode="r", use_consolidated=False)["images"]
    some = np.random.default_rng(0).integers(0, PATCHES, 200)
    rows = [
        compare(
            "random patch, to z[i]",
            lambda: [patches.read([i]) for i in some],
            lambda: [array[int(i)] for i in some],
            ">= 3",
        ),
        compare(
            "random patch, to oindex",
            lambda: [patches.read([i]) for i in some],
            lambda: [array.oindex[[int(i)]] for i in some[:40]],
            ">= 20",
            0.2,
        ),
        loaders(patches, work / "p.zarr"),
        decompression(work),
    ]
    return rows


def loaders(patches: Patches, path: Path) -> dict[str, Any]:
    """Measure a shuffled epoch: batches of 32 through two forked workers, ready for the network."""
    order = np.random.default_rng(1).permutation(PATCHES)
    cut = [order[k : k + BATCH] for k in range(0, PATCHES, BATCH)]
    dataset.KEEP_BYTES = 0  # as for a set that does not fit into memory
    source = dataset.PatchDataset(patches, np.arange(PATCHES), masks=False)

    def ours() -> None:
        for images, _ in source.read_by_workers(cut):
            assert to_tensor(images).shape[1:] == (3, 256, 256)

    def other() -> None:
        loader = DataLoader(Plain(path), BATCH, sampler=order.tolist(), num_workers=2, multiprocessing_context="fork")
        for images in loader:
            assert to_tensor(images.numpy()).shape[1:] == (3, 256, 256)

    return compare("loader, two workers, to z[i]", ours, other, ">= 2")


def decompression(work: Path) -> dict[str, Any]:
    """Compare reading maps in shards of 64, as `score` does, with blosc alone on chunks in memory."""
    spec = ArraySpec("maps", (MAPS, 3, 256, 256), np.float32, 64)
    maps = np.random.default_rng(0).normal(size=spec.shape).astype(np.float32)
    item = Item("ig", (spec,))
    store = create_or_match(work / "m.zarr", provenance.header("maps/1", {}, 0, {}), {}, [item])
    write_shards(store, item, {"maps": maps})
    chunks = []
    for k in range(item.count):
        data = (store.path / spec.file(k)).read_bytes()
        index = np.frombuffer(data[-16 * 64 - 4 : -4], "<u8").reshape(64, 2).tolist()
        chunks += [data[a : a + n - 4] for a, n in index]
    out = np.empty(spec.shape[1:], np.float32)
    reader = Store(store.path)
    return compare(
        "score's reading, to bare blosc",
        lambda: [reader.take("maps", np.arange(*item.span(k))) for k in range(item.count)],
        lambda: [blosc.decompress(chunk, out) for chunk in chunks],
        ">= 0.7",
    )
