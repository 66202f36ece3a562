"""Shared fixtures: a tiny tissue made on the spot, and the pipeline run on it once per session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from histoxai.cli.app import app
from histoxai.core.progress import Progress
from histoxai.settings import Work
from histoxai.store.jobs.runner import Compute, Stream, Task, run_shards
from histoxai.store.shards import Item, Store

ROOT = Path(__file__).resolve().parents[1]
SIZE = 64
CLASSES = ("A", "N", "R1")

# A process of its own has the machine to itself; each of several beside one another has one core, as have its children.
BESIDE = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
if BESIDE and hasattr(os, "sched_setaffinity"):  # not on macOS
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(BESIDE) % len(cores)]})
THREADS = 1 if BESIDE else 2
torch.set_num_threads(THREADS)


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Outcome:
    """Run a command in this process; a bug of ours (no exit code of its own) raises."""
    words = [str(a) for a in arguments]
    with mock.patch.object(sys, "argv", ["histoxai", *words]):  # what goes on record as the command
        result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def done(*arguments: object) -> str:
    """Run a command that must succeed; returns its stdout."""
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def patch(rng: np.random.Generator, label: int) -> tuple[np.ndarray, np.ndarray]:
    """A pink 64 px patch with dark discs (none, small, large by class) and their mask."""
    image = rng.normal([225, 170, 200], 8, (SIZE, SIZE, 3))
    mask = np.zeros((SIZE, SIZE), bool)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    for _ in range(6 if label else 0):
        y, x = rng.integers(8, SIZE - 8, 2)
        mask |= (yy - y) ** 2 + (xx - x) ** 2 <= (3 * label + 1) ** 2
    image[mask] = rng.normal([80, 50, 130], 6, (int(mask.sum()), 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_diagset(root: Path, scans: int = 6, per_class: int = 4) -> Path:
    """A DiagSet tree of three classes."""
    for scan in range(scans):
        for label, name in enumerate(CLASSES):
            rng = np.random.default_rng([scan, label])
            folder = root / "blobs" / "S" / "20x" / f"scan{scan}" / name
            folder.mkdir(parents=True)
            images = np.stack([patch(rng, label)[0] for _ in range(per_class + label)])
            np.save(folder / f"scan{scan}.blob.0.npy", images)
    return root


def write_pannuke(root: Path, n: int = 4, spelling: str = "short", dtype: str = "uint8") -> Path:
    """A PanNuke tree of three folds in one of its two spellings."""
    for fold in (1, 2, 3):
        rng = np.random.default_rng(fold)
        pairs = [patch(rng, 1 + i % 2) for i in range(n)]
        images = np.stack([p[0] for p in pairs]).astype(dtype)
        masks = np.zeros((n, SIZE, SIZE, 6), dtype)
        masks[..., 0] = np.stack([p[1] for p in pairs]) * 3
        masks[:, :4, :4, 2] = 7
        masks[..., 5] = masks[..., :5].max(axis=-1) == 0
        folder = root / f"fold{fold}" if spelling == "short" else root / f"Fold {fold}"
        places = (folder, folder) if spelling == "short" else (folder / "images" / f"fold{fold}", folder / "masks")
        for place, name, data in zip(places, ("images", "masks"), (images, masks), strict=True):
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}.npy", data)
    return root


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Restore the number of torch's threads after each test, because bytes that tests compare depend on it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Mini:
    """Paths of the tiny pipeline."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.root / (name if name in ("cls", "seg", "report", "diagset", "pannuke") else f"{name}.zarr")


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """Everything up to the report, from 72 patches of 64 px, with every method; read only."""
    m = Mini(tmp_path_factory.mktemp("mini"))
    write_diagset(m.diagset)
    write_pannuke(m.pannuke)
    done("ingest", m.diagset, "-o", m.patches, "--classes", ",".join(CLASSES), "--mpp", 0.25)
    done("augment", m.patches, "-o", m.balanced)
    done("train-cls", m.balanced, "-o", m.cls, "--epochs", 3, "--batch-size", 8)
    done("ingest", m.pannuke, "-o", m.nuclei)
    done("train-seg", m.nuclei, "-o", m.seg, *SEG)
    done("masks", m.balanced, "--model", m.seg, "-o", m.masks)
    done("explain", m.balanced, "--model", m.cls, "-o", m.maps, *FAST, "--shard-size", 4)
    done("score", m.maps, "--masks", m.masks, "-o", m.scores)
    done("report", m.scores, "-o", m.report)
    return m


# enough for masks that are neither empty nor full
SEG = ["--epochs", 20, "--width", 4, "--lr", 0.01]
# few steps, so that the tiny pipeline takes seconds
FAST = ["-O", "ig.steps=8", "-O", "nt.steps=4", "-O", "nt.samples=2", "-O", "lime.samples=40", "-O", "lime.max_dist=10"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, str]:
    """The demo's folder, its seconds, and what it printed; HISTOXAI_TEST_DEMO names one that other sessions share."""
    shared = os.environ.get("HISTOXAI_TEST_DEMO")
    folder = Path(shared) if shared else tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    result = subprocess.run([ROOT / "scripts" / "demo", folder], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder, time.monotonic() - started, result.stdout


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real H&E images."""
    path = os.environ.get("HISTOXAI_TEST_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("HISTOXAI_TEST_DATA names no folder of real H&E images (CI sets it)")
    return Path(path)


def shows(text: str, value: float | None) -> bool:
    """Whether a text is a value with three to five decimals, or the dash of an undefined one."""
    if value is None or not np.isfinite(value):
        return text == "–"
    decimals = len(text.partition(".")[2])
    return 3 <= decimals <= 5 and text == f"{value:z.{decimals}f}"


def fill_item(store: Store, item: Item, compute: Compute | Stream, progress: Progress) -> int:
    """Do the missing shards of one item as a stage does; return how many were done."""
    task = Task([item], lambda: store, None, lambda store: {item.name: compute}, lambda **_: {}, {})
    return run_shards(task, progress, Work())["done"][item.name]


def without_seal(path: Path) -> dict[str, Any]:
    """A JSON file of ours as one may change it: without its checksum."""
    return {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}


def array_files(root: Path) -> dict[str, bytes]:
    """Every file of a store that must be the same bytes in every run: all but records and the run's own facts."""
    kept = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if not name.startswith("_done") and name != "zarr.json":
            kept[name] = path.read_bytes()
    return kept
