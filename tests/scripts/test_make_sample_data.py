"""The committed sample data: what it must hold, and that the script still draws it."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from histoxai.ingest.formats.diagset import DiagSetReader
from histoxai.ingest.formats.pannuke import PanNukeReader
from histoxai.settings import Ingest
from tests.conftest import ROOT

DATA = ROOT / "sample_data"
BLOBS = DATA / "diagset" / "blobs" / "S" / "20x"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample_data", ROOT / "scripts" / "make_sample_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_sample_data"] = module
    spec.loader.exec_module(module)
    return module


def test_size_on_disk() -> None:
    assert sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file()) < 20e6


def test_diagset_tree() -> None:
    index = DiagSetReader(DATA / "diagset", Ingest()).index
    assert index.classes == ["A", "N", "R1", "R2", "R3", "R4", "R5"]
    assert index.size == (96, 96)
    scans: dict[int, set[str]] = defaultdict(set)
    for label, group in zip(index.label, index.group, strict=True):
        scans[label].add(group)
    assert all(len(s) >= 6 for s in scans.values())
    assert len(set(np.bincount(index.label).tolist())) > 4  # unequal numbers
    assert set(index.split) == {1, 2, 3}
    for code in range(7):
        assert {s for s, c in zip(index.split, index.label, strict=True) if c == code} == {1, 2, 3}


def test_pannuke_tree() -> None:
    reader = PanNukeReader(DATA / "pannuke", Ingest())
    assert reader.index.size == (96, 96)
    assert np.bincount(reader.index.split).tolist() == [0, 40, 20]
    _, targets = reader.read(0, 60)
    assert targets is not None
    assert (targets.mean(axis=(0, 2, 3)) > 0.02).all()
    masks = np.load(DATA / "pannuke" / "fold1" / "masks.npy", allow_pickle=False)
    assert masks.shape[-1] == 6
    assert ((masks[..., :5] > 0).sum(axis=-1) + (masks[..., 5] > 0) == 1).all()
    types = np.load(DATA / "pannuke" / "fold1" / "types.npy", allow_pickle=False)
    assert set(types.tolist()) == {"Prostate"}


def truth(path: Path) -> np.ndarray:
    packed = np.load(DATA / "diagset" / "truth" / path.relative_to(BLOBS), allow_pickle=False)
    return np.unpackbits(packed, axis=-1).astype(bool)


def test_the_evidence_is_planted_in_tumor_nuclei_and_grows_with_the_grade() -> None:
    cover: dict[str, list[float]] = defaultdict(list)
    for path in sorted(BLOBS.rglob("*.npy")):
        images, masks = np.load(path, allow_pickle=False), truth(path)
        assert masks.shape == images.shape[:3]
        cover[path.parent.name] += masks.mean(axis=(1, 2)).tolist()
        for image, mask in zip(images, masks, strict=True):
            if mask.any():  # hematoxylin-dark against the rest
                assert image[mask].mean() < image[~mask].mean() - 30
    assert max(cover["A"] + cover["N"]) == 0
    for lower, higher in zip(("R1", "R2", "R3", "R4"), ("R2", "R3", "R4", "R5"), strict=True):
        assert max(cover[lower]) < min(cover[higher])


@pytest.mark.parametrize(("scan", "name"), [("S01", "N"), ("S02", "A"), ("S05", "R4")])
def test_the_script_draws_the_committed_pictures(script: ModuleType, scan: str, name: str) -> None:
    folders = sorted(p for p in BLOBS.iterdir() if (p / name).is_dir())
    folder = next((p for p in folders if p.name == scan), folders[0])
    image, labels = script.draw_patch(name, folder.name, 0)
    stored = np.load(folder / name / f"{folder.name}.blob.0.npy", allow_pickle=False)[0]
    # Another CPU's exp and sin may round a pixel the other way; no more than that.
    difference = np.abs(image.astype(int) - stored.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert np.array_equal(labels["kind"] == 1, truth(folder / name / f"{folder.name}.blob.0.npy")[0])
