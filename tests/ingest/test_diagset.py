"""The DiagSet format: what is read, and how bad trees are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.diagset import DiagSetReader
from histoxai.settings import Ingest
from tests.conftest import CLASSES, run, write_diagset

BLOB = "blobs/S/20x/scan1/N/scan1.blob.0.npy"


def test_diagset(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "d")
    (root / "blobs/S/20x/scan0/BG").mkdir()
    folder = root / "partitions" / "DiagSet-A"
    folder.mkdir(parents=True)
    for name, scans in (("train", "scan0\nscan1"), ("validation", "scan2"), ("test", "scan3")):
        (folder / f"{name}.csv").write_text(f"scan_id\n{scans}\n")
    reader = DiagSetReader(root, Ingest(classes=("A", "N", "R1")))
    index = reader.index
    assert np.bincount(index.label).tolist() == [24, 30, 36]
    assert (index.mpp, index.size, len(set(index.group))) == (0.5, (64, 64), 6)
    assert index.patch_id[0] == "scan0/A/scan0.blob.0#0"
    assert [index.split[index.group.index(f"scan{i}")] for i in range(6)] == [1, 1, 2, 3, 0, 0]
    assert any("BG" in n for n in index.notes)
    images, targets = reader.read(2, 12)  # across two files
    first, second = (np.load(root / f"blobs/S/20x/scan0/{c}/scan0.blob.0.npy") for c in "AN")
    assert targets is None
    assert np.array_equal(
        images, np.concatenate([first[2:], second, np.load(root / "blobs/S/20x/scan0/R1/scan0.blob.0.npy")[:3]])
    )


def spoil_rank(root: Path) -> None:
    np.save(root / BLOB, np.zeros((5, 64, 64), np.uint8))


def spoil_size(root: Path) -> None:
    np.save(root / BLOB, np.zeros((5, 32, 64, 3), np.uint8))


def spoil_dtype(root: Path) -> None:
    np.save(root / BLOB, np.zeros((5, 64, 64, 3), np.float32))


def truncate(root: Path) -> None:
    data = (root / BLOB).read_bytes()
    (root / BLOB).write_bytes(data[: len(data) // 2])


def pickled(root: Path) -> None:
    np.save(root / BLOB, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def bare_pickle(root: Path) -> None:
    (root / BLOB).write_bytes(pickle.dumps([1, 2]))


def empty_file(root: Path) -> None:
    (root / BLOB).write_bytes(b"")


def fortran(root: Path) -> None:
    np.save(root / BLOB, np.asfortranarray(np.load(root / BLOB)))


def unknown_class(root: Path) -> None:
    (root / "blobs/S/20x/scan1/R9").mkdir()


def twice(root: Path) -> None:
    folder = root / "partitions" / "DiagSet-A"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("scan_id\nscan0\n")
    (folder / "test.csv").write_text("scan_id\nscan0\n")


DIAGSET_FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (spoil_rank, r"shape \(5, 64, 64\); expected \(n, height, width, 3\)"),
    (spoil_size, "patches are 64 x 32 px but"),
    (spoil_dtype, "dtype float32; expected uint8"),
    (truncate, "truncated"),
    (pickled, "pickled objects, which are never loaded"),
    (bare_pickle, r"not a \.npy file"),
    (empty_file, r"not a \.npy file"),
    (fortran, "Fortran order"),
    (unknown_class, "unknown class folder 'R9'"),
    (twice, "scan 'scan0' is in two partitions"),
]


@pytest.mark.parametrize(("spoil", "message"), DIAGSET_FAULTS, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_diagset_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    root = write_diagset(tmp_path / "d", scans=2)
    spoil(root)
    outcome = run("ingest", root, "-o", tmp_path / "out.zarr", "--classes", ",".join(CLASSES))
    assert outcome.code == 3
    assert outcome.out == ""
    last = outcome.err.strip().splitlines()[-1]
    assert last.startswith("histoxai: ")
    assert str(root) in last
    with pytest.raises(InputRefused, match=message):
        DiagSetReader(root, Ingest(classes=CLASSES))
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
