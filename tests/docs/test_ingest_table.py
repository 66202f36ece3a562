"""The table in docs/ingest.md of what becomes a label, a group and a split, row by row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from histoxai.core.registry import builtin_names, resolve
from histoxai.settings import Ingest
from histoxai.store.schema import SPLITS
from tests.conftest import ROOT
from tests.ingest.test_formats import write_ome
from tests.ingest.test_slide import feature, picture, square, write_geojson, write_slide

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (2, 64, 64, 3), np.uint8)
LABELS = np.array(["A", "N"])


def table() -> list[list[str]]:
    text = (ROOT / "docs" / "ingest.md").read_text(encoding="utf-8").partition("| format | files of the source")[2]
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def write(path: Path) -> None:
    """Write a file or store of the source, by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        is_mask = path.parent.name == "masks" or path.stem.endswith("_mask")
        Image.fromarray(np.eye(64, dtype=np.uint8) if is_mask else IMAGES[0]).save(path)
    elif path.suffix == ".npy":
        masks = np.zeros((2, 64, 64, 6), np.uint8)
        arrays = {"labels": LABELS, "groups": np.array(["g1", "g2"]), "masks": masks}
        np.save(path, arrays.get(path.stem, IMAGES))
    elif path.suffix == ".h5":
        names = np.array(LABELS, dtype=h5py.string_dtype())
        arrays = {"y": names} if path.stem.endswith("_y") else {"x": IMAGES}
        with h5py.File(path, "w") as file:
            for name, values in (arrays if "_" in path.stem else {"x": IMAGES, "y": names}).items():
                file[name] = values
    elif path.name.endswith(".ome.zarr"):
        write_ome(path, IMAGES[0], 0.5)
    elif path.suffix == ".zarr":
        group = zarr.open_group(path, mode="w")
        group.create_array("images", data=IMAGES)
        group.create_array("labels", data=np.array([1, 0]))
    elif path.suffix == ".tiff":
        write_slide(path, picture(128, 128), levels=1)
    elif path.suffix == ".geojson":
        write_geojson(path, feature("A", square(0, 0, 128)))
    else:
        raise ValueError(f"{path}: no such file is written here")


def test_every_format_has_a_row() -> None:
    assert {row[0].strip("`") for row in table()} == set(builtin_names("format"))


@pytest.mark.parametrize("row", table(), ids=lambda row: f"{row[0]} {row[1][:40]}")
def test_a_row_is_true(tmp_path: Path, row: list[str]) -> None:
    name = row[0].strip("`")
    files = re.findall(r"`([^`]+)`", row[1])
    for file in files:
        write(tmp_path / "src" / file)
    settings: dict[str, Any] = {}
    if name == "slide":
        settings = {"min_tissue": 0.0, "size": 64}
        if any(file.endswith(".geojson") for file in files):
            settings |= {"annotations": tmp_path / "src"}
    if name == "zarr" and row[2] != "-":
        settings = {"classes": ("N", "A")}  # Zarr has no text here: names of the numbers 0 and 1
    if files[0].endswith(".ome.zarr"):
        settings = {"size": 64}
    single = len(files) == 1 and name in ("hdf5", "zarr")
    source = tmp_path / "src" / files[0] if single else tmp_path / "src"
    index = resolve("format", name)(source, Ingest(**settings)).index
    first = (index.classes[index.label[0]] if index.label[0] >= 0 else "-", index.group[0], index.split[0])
    want = [cell.strip("`") for cell in row[2:5]]
    assert [first[0], first[1], SPLITS[first[2]] if first[2] else "-"] == want
