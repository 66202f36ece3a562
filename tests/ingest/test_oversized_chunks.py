"""Chunks that unpack to far more than they should: refused, within a bound of memory."""

from __future__ import annotations

import gzip
import resource
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from numcodecs import GZip

from histoxai.core import resources
from tests.conftest import run

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
BOMB = 1 << 30  # bytes that a chunk of 768 becomes


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_SPARE", 200 << 20)
    monkeypatch.setattr(resources, "_PER_THREAD", 0)


def write_zarr(root: Path) -> Path:
    group = zarr.open_group(str(root / "x.zarr"), mode="w", zarr_format=2)
    group.create_array("images", shape=IMAGES.shape, chunks=(1, 16, 16, 3), dtype="u1", compressors=GZip())[...] = (
        IMAGES
    )
    (root / "x.zarr/images/1.0.0.0").write_bytes(gzip.compress(bytes(BOMB // 8), 9) * 8)
    return root / "x.zarr"


def write_hdf5(root: Path) -> Path:
    with h5py.File(root / "x.h5", "w") as file:
        made = file.create_dataset("images", data=IMAGES, chunks=(1, 16, 16, 3), compression="gzip")
        packer = zlib.compressobj(9)
        pieces = [packer.compress(bytes(1 << 24)) for _ in range(BOMB >> 24)]
        made.id.write_direct_chunk((1, 0, 0, 0), b"".join(pieces) + packer.flush())
    return root / "x.h5"


@pytest.mark.parametrize("write", [write_zarr, write_hdf5])
def test_a_chunk_that_unpacks_to_a_gigabyte_is_refused(tmp_path: Path, write: object) -> None:
    source, before = write(tmp_path), resource.getrlimit(resource.RLIMIT_AS)  # type: ignore[operator]
    resources.reset_peak_memory()
    held = resources.peak_memory_mb()
    outcome = run("ingest", source, "-o", tmp_path / "o")
    assert outcome.code == 3, outcome.err
    assert "images: " in outcome.err.splitlines()[-1]
    assert resources.peak_memory_mb() - held < 700
    assert resource.getrlimit(resource.RLIMIT_AS) == before
