"""The committed sample data: what it must hold, and that the script still draws it."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from histoxai.ingest.formats.diagset import DiagSetFormat
from histoxai.ingest.formats.pannuke import PanNukeFormat
from histoxai.report.sections.ink import find_ink
from histoxai.settings import Ingest
from histoxai.statistics.ranks import Ranking
from tests.conftest import ROOT
from tests.explain.test_methods import build

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
    index = DiagSetFormat(DATA / "diagset", Ingest()).index
    assert index.classes == ["A", "N", "R1", "R2", "R3", "R4", "R5"]
    assert index.size == (96, 96)
    pairs = list(zip(index.label, index.group, strict=True))
    assert len(set(index.group)) >= 50
    assert len(set(pairs)) == len(pairs)  # at most one patch of a class in each scan: they are independent
    assert len(set(np.bincount(index.label).tolist())) > 4  # unequal numbers
    assert set(index.split) == {1, 2, 3}
    for code in range(7):
        assert {s for s, c in zip(index.split, index.label, strict=True) if c == code} == {1, 2, 3}


def test_pannuke_tree() -> None:
    reader = PanNukeFormat(DATA / "pannuke", Ingest())
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


def all_patches() -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Scan, class, image and truth of each patch."""
    return [
        (path.parent.parent.name, path.parent.name, np.load(path, allow_pickle=False)[0], truth(path)[0])
        for path in sorted(BLOBS.rglob("*.npy"))
    ]


def test_the_evidence_is_planted_in_tumor_nuclei_and_grows_with_the_grade(script: ModuleType) -> None:
    cover: dict[str, list[float]] = defaultdict(list)
    ambiguous = 0
    for scan, name, image, mask in all_patches():
        assert mask.shape == image.shape[:2]
        if script.is_ambiguous(name, scan, 0):
            ambiguous += 1
        else:
            cover[name].append(float(mask.mean()))
    assert max(cover["A"] + cover["N"]) == 0
    for lower, higher in zip(("R1", "R2", "R3", "R4"), ("R2", "R3", "R4", "R5"), strict=True):
        assert np.quantile(cover[lower], 0.75) < np.quantile(cover[higher], 0.25)  # a mark hides some nuclei of R3
    assert 0.15 < ambiguous / 331 < 0.25


def test_dark_pixels_are_no_evidence() -> None:
    """Decoys are darker than tumor nuclei: hematoxylin finds these hardly better than chance, the truth always."""
    stain, dark, found = build("hematoxylin"), [], []
    for _, name, image, mask in all_patches():
        if mask.any():
            plane = stain.plane(image / 255, 0)  # type: ignore[attr-defined]
            found.append(roc_auc_score(mask.ravel(), plane.ravel()))
        dark.append((name, (image.sum(axis=2, dtype=int) < 330).mean()))
    assert 0.55 < np.mean(found) < 0.68
    shares = [np.mean([share for kind, share in dark if kind == name]) for name in ("N", "R1", "R2", "R3")]
    assert max(shares) < 1.5 * min(shares)  # as many of them in every class


def test_controls_score_as_they_must() -> None:
    """The truth as a map is a positive control, its inverse a negative one."""
    patch = next(mask for _, name, _, mask in all_patches() if name == "R4")
    plane = patch.astype(np.float32)
    assert Ranking.of(plane).against(patch).auroc() == 1
    assert Ranking.of(1 - plane).against(patch).auroc() == 0


def test_the_confounder_goes_with_one_class_in_some_scans(script: ModuleType) -> None:
    marked = sorted((DATA / "diagset" / "ink").rglob("*.npy"))
    names = {path.parent.name for path in marked}
    assert names == {script.INKED}
    assert 0.75 < len(marked) / len(list(BLOBS.glob(f"*/{script.INKED}/*.npy"))) < 0.95
    for path in marked[:10]:
        mark = np.unpackbits(np.load(path, allow_pickle=False)[0], axis=-1).astype(bool)
        image = np.load(BLOBS / path.relative_to(DATA / "diagset" / "ink"), allow_pickle=False)[0]
        found = find_ink(image)  # as the report does, by its colour
        assert (found & mark).sum() / (found | mark).sum() > 0.9


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
