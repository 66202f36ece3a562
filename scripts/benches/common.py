"""Input data, timing and memory measurement that the benchmarks share."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

if TYPE_CHECKING:
    from histoxai.store.shards import Item, Store

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data" / "diagset" / "blobs" / "S" / "20x"


def tissue(n: int, size: int) -> np.ndarray:
    """Return n images (n, size, size, 3) uint8: mosaics of randomly drawn sample patches."""
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
    """Write images as a DiagSet tree of one scan."""
    folder = root / "blobs" / "S" / "20x" / "scan" / "N"
    folder.mkdir(parents=True)
    for i in range(0, len(images), blob):
        np.save(folder / f"scan.blob.{i // blob:05d}.npy", images[i : i + blob])


def write_shards(store: Store, item: Item, arrays: dict[str, np.ndarray]) -> None:
    """Write all shards of an item from whole arrays: path -> (n, ...)."""
    for shard in range(item.count):
        start, stop = item.span(shard)
        store.write(item, shard, {path: rows[start:stop] for path, rows in arrays.items()}, 0.0)


def inputs(
    work: Path, n: int, name: str, size: int = 96, arch: str = "thesis-cnn", classes: int = 2
) -> tuple[Path, Path]:
    """Make a patch store of n test patches and a run folder with an untrained network; return both paths."""
    from histoxai.core import provenance, registry
    from histoxai.networks.weights import finish
    from histoxai.store.create import create_or_match
    from histoxai.store.patches import image_item

    images, words = tissue(n, size), [f"c{k}" for k in range(classes)]
    header = provenance.header("patches/2", {}, 0, {"source": {"path": "x", "digest": "d"}})
    index = {
        "label": np.arange(n, dtype=np.int16) % classes,
        "group": np.array(["g"] * n),
        "patch_id": np.array([str(i) for i in range(n)]),
        "split": np.full(n, 3, np.uint8),
    }
    item = image_item(n, (size, size), 512, False, {})
    store = create_or_match(work / f"{name}.zarr", header, index, [item], attrs={"classes": words, "mpp": None})
    write_shards(store, item, {"images": images})
    torch.manual_seed(0)
    recipe = {"classes": classes, "size": [size, size]}
    facts = {
        **provenance.header("run/1", {}, 0, {"patches": {"path": "x", "digest": store.digest()}}),
        "kind": "classifier",
        "arch": arch,
        "recipe": recipe,
        "classes": words,
        "size": [size, size],
        "mpp": None,
        "normalisation": "uint8 / 255",
        "metrics": {},
        "identity": {},
    }
    finish(work / f"{name}-cls", facts, registry.resolve("classifier", arch)(classes, (size, size)))
    return store.path, work / f"{name}-cls"


@contextmanager
def work_loops_timed() -> Iterator[list[float]]:
    """Collect the seconds that each `explain` inside spends in its work loop, without loading and checking."""
    from histoxai.stages import base

    spent: list[float] = []
    run_shards = base.run_shards

    def timed(*arguments: Any) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            return run_shards(*arguments)
        finally:
            spent.append(time.perf_counter() - started)

    with mock.patch.object(base, "run_shards", timed):
        yield spent


def peak_megabytes(*arguments: object) -> float:
    """Run a histoxai command in its own process and return its peak resident memory in MB.

    From VmHWM, which starts anew with the program; ru_maxrss would count what this process held when it forked.
    """
    code = (
        "import sys\nfrom histoxai.core import resources\nfrom histoxai.cli.app import app\n"
        "resources.reset_peak_memory = lambda: None\n"  # of the whole command, not of its last shard
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1]) / 1024


def row(name: str, ours: float, other: float, ratio: float, goal: str) -> dict[str, Any]:
    """Return one row of a benchmark. The name of a row that compares no seconds says what it compares."""
    return {"name": name, "ours_s": ours, "other_s": other, "ratio": ratio, "goal": goal}
