"""Roles of arrays: which file or store is a group of patches."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from histoxai.ingest.arrays import ArrayPatches
from histoxai.ingest.formats.hdf5 import Hdf5Format
from histoxai.ingest.formats.zarrs import ZarrFormat
from histoxai.settings import Ingest

IMAGES = np.full((2, 8, 8, 3), 200, np.uint8)


def h5(root: Path, *names: str, **more: np.ndarray) -> Path:
    """Files of two images each."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / name, "w") as file:
            for key, values in {"images": IMAGES, **more}.items():
                file[key] = values
    return root


@pytest.mark.parametrize(
    ("names", "groups", "splits"),
    [
        (["TCGA-01.h5", "TCGA-02.h5"], ["TCGA-01", "TCGA-02"], [0, 0]),
        (["train/TCGA-01.h5", "test/TCGA-02.h5"], ["test/TCGA-02", "train/TCGA-01"], [3, 1]),
        (["A/1.h5", "B/1.h5"], ["A/1", "B/1"], [0, 0]),
        (["TCGA-01.h5"], None, [0]),  # nothing tells one scan from a data set
        (["pcam_train.h5", "pcam_test.h5"], None, [3, 1]),
        (["train/data.h5", "test/data.h5"], None, [3, 1]),  # parts of one data set
    ],
)
def test_each_of_several_files_is_a_group(
    tmp_path: Path, names: list[str], groups: list[str] | None, splits: list[int]
) -> None:
    index = Hdf5Format(h5(tmp_path, *names), Ingest()).index
    assert index.group == (index.patch_id if groups is None else [g for g in groups for _ in range(2)])
    assert index.split == [s for s in splits for _ in range(2)]
    said = [n for n in index.notes if "group" in n]
    assert len(said) == 1
    assert said[0].startswith("no scans or patients are named") == (groups is None)
    if groups is not None:
        assert said == [f"group: the file ('{groups[0]}', say); 2 groups"]


def test_arrays_of_groups_come_before_the_file(tmp_path: Path) -> None:
    index = Hdf5Format(h5(tmp_path, "a.h5", "b.h5", patient=np.array([7, 8])), Ingest()).index
    assert (index.group, index.notes) == (["7", "8", "7", "8"], [])


def test_each_of_several_stores_is_a_group(tmp_path: Path) -> None:
    for name in ("s1.zarr", "s2.zarr"):
        zarr.open_group(tmp_path / name, mode="w").create_array("images", data=IMAGES)
    reader = ZarrFormat(tmp_path, Ingest())
    assert isinstance(reader._patches, ArrayPatches)
    assert reader.index.group == ["s1", "s1", "s2", "s2"]
    assert reader.index.notes == ["group: the file ('s1', say); 2 groups"]


def test_y_beside_x_is_a_position_and_no_label(tmp_path: Path) -> None:
    x, y = np.array([0, 256]), np.array([0, 512])
    index = Hdf5Format(h5(tmp_path / "a", "s.h5", x=x, y=y), Ingest()).index
    assert (index.classes, index.label) == ([], [-1, -1])
    index = Hdf5Format(h5(tmp_path / "b", "s.h5", x=x, y=y, target=np.array([1, 0])), Ingest()).index
    assert (index.classes, index.label) == (["0", "1"], [1, 0])
    index = Hdf5Format(h5(tmp_path / "c", "s.h5", x=x, y=y), Ingest(labels="y")).index
    assert (index.classes, index.label) == (["0", "512"], [0, 1])  # as the settings say
    index = Hdf5Format(h5(tmp_path / "d", "s.h5", **{"coords/x": x, "coords/y": y}), Ingest()).index
    assert index.label == [-1, -1]


def test_y_without_positions_is_a_label(tmp_path: Path) -> None:
    index = Hdf5Format(h5(tmp_path / "a", "s.h5", y=np.array([1, 0])), Ingest()).index
    assert (index.classes, index.label) == (["0", "1"], [1, 0])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"] = IMAGES, np.array([1, 0])  # x are the images
    assert Hdf5Format(tmp_path / "x.h5", Ingest()).index.label == [1, 0]
