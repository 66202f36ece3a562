"""Labels and groups in arrays: missing words, and names that the file gives to numbers."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.hdf5 import Hdf5Format
from histoxai.ingest.formats.npy import NpyFormat
from histoxai.settings import Ingest

IMAGES = np.full((9, 8, 8, 3), 200, np.uint8)
WORDS = ["T", "N", "nan", "T", "NA", "None", "N", "T", ""]


def h5(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in {"images": IMAGES, **datasets}.items():
            file[name] = values
    return path


def test_words_for_missing_labels_are_no_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "labels.npy", np.array(WORDS))
    index = NpyFormat(tmp_path, Ingest()).index
    assert (index.classes, index.label) == (["N", "T"], [1, 0, -1, 1, -1, -1, 0, 1, -1])
    assert "4 patches have no label: their text is empty, or nan, None or NA" in index.notes
    named = NpyFormat(tmp_path, Ingest(classes=("T", "None"))).index  # a class that is said to be one
    assert (named.classes, named.label) == (["T", "None"], [0, 0, 1, 0])
    with pytest.raises(InputRefused, match="has no label 'B'; it has N, T"):
        NpyFormat(tmp_path, Ingest(classes=("T", "B")))


def test_words_for_missing_patients_are_no_group(tmp_path: Path) -> None:
    patients = ["p1", "p1", "", "", "", "nan", "None", "p3", "NA"]
    path = h5(tmp_path / "d.h5", patient=np.array(patients, h5py.string_dtype()))
    index = Hdf5Format(path, Ingest()).index
    assert index.group == ["p1", "p1", "d#2", "d#3", "d#4", "d#5", "d#6", "p3", "d#8"]
    assert index.notes == ["6 patches name no group ('', nan, None or NA): each is a group of its own"]


def test_labels_of_an_enum_keep_their_names(tmp_path: Path) -> None:
    numbers = np.arange(9) % 2
    kind = h5py.enum_dtype({"tumor": 0, "normal": 1}, basetype="i1")
    path = h5(tmp_path / "d.h5", labels=numbers.astype(kind))
    index = Hdf5Format(path, Ingest()).index
    assert (index.classes, index.label) == (["normal", "tumor"], (1 - numbers).tolist())
    chosen = Hdf5Format(path, Ingest(classes=("tumor", "normal"))).index
    assert (chosen.classes, chosen.label) == (["tumor", "normal"], numbers.tolist())
    with pytest.raises(InputRefused, match="labels hold 2, which their enum does not name"):
        Hdf5Format(h5(tmp_path / "e.h5", labels=np.full(9, 2).astype(kind)), Ingest())
