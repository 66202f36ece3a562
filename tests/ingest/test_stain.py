"""Stain normalisation: torchstain's numbers, what is left alone, and what stands on record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from histoxai.core.errors import InputRefused, UsageError
from histoxai.core.provenance import file_checksum
from histoxai.ingest.stain import Normaliser
from histoxai.store.patches import Patches
from tests.conftest import array_files, done, patch, run, write_diagset

METHODS = {"macenko": NumpyMacenkoNormalizer, "reinhard": NumpyReinhardNormalizer}


def tissue(seed: int, pale: float = 1.0) -> np.ndarray:
    """A patch of two stains, mixed by amounts that vary over it."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2, 0.3, (64, 64, 2)) * pale
    density = amounts @ np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    return (240 * np.exp(-density)).clip(0, 255).astype(np.uint8)


def glass(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(243, 2, (64, 64, 3)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", METHODS)
def test_normalised_patches_are_torchstains(method: str) -> None:
    reference, image = tissue(0), tissue(1, pale=0.5)
    theirs = METHODS[method]()
    theirs.fit(reference)
    expected = theirs.normalize(image)
    made = Normaliser.fit(method, reference).apply(image)
    assert np.array_equal(made, expected[0] if method == "macenko" else expected)
    assert made.dtype == np.uint8
    # twice as much stain in the reference: the patch gets darker, towards it
    assert abs(made.mean() - reference.mean()) < 0.2 * abs(image.mean() - reference.mean())


@pytest.mark.parametrize(("method", "most"), [("macenko", 4), ("reinhard", 2)])
def test_a_patch_normalised_to_itself_stays_what_it_is(method: str, most: float) -> None:
    image = tissue(3)
    made = Normaliser.fit(method, image).apply(image)
    assert np.abs(made.astype(int) - image).mean() < most


@pytest.mark.parametrize("method", METHODS)
def test_patches_that_allow_no_fit_stay_as_they_are(method: str) -> None:
    normaliser = Normaliser.fit(method, tissue(0))
    few = glass()
    few[:12, :12] = tissue(2)[:12, :12]  # 3.5 % tissue
    one_colour = np.full((64, 64, 3), (150, 90, 160), np.uint8)
    for image in (glass(), few, one_colour, np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)):
        assert normaliser.normalised(image) is None
        assert np.array_equal(normaliser.apply(image), image)
    some = glass()
    some[:24] = tissue(2)[:24]
    assert normaliser.normalised(some) is not None


def test_references_that_cannot_be_fitted_to_are_refused() -> None:
    with pytest.raises(InputRefused, match="too little tissue"):
        Normaliser.fit("macenko", glass())
    with pytest.raises(UsageError, match="'vahadane' is not one of macenko, reinhard"):
        Normaliser.fit("vahadane", tissue(0))


def test_without_torchstain_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchstain.numpy.normalizers", None)
    with pytest.raises(UsageError, match=r"pip install 'histoxai\[stain\]'"):
        Normaliser.fit("macenko", tissue(0))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes of five patches, one of them glass."""
    for name in ("A", "B"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for i in range(5):
            image = glass() if (name, i) == ("B", 2) else tissue(10 + i, 0.6)
            Image.fromarray(image).save(tmp_path / "source" / name / f"{i}.png")
    Image.fromarray(tissue(0)).save(tmp_path / "reference.png")
    return tmp_path / "source"


def stained(source: Path, output: str, *more: object) -> str:
    reference = source.parent / "reference.png"
    return done(
        "ingest", source, "-o", source.parent / output, "--stain", "macenko", "--stain-reference", reference, *more
    )


def test_ingest_normalises_counts_and_records(source: Path) -> None:
    summary = json.loads(stained(source, "a.zarr", "--json"))
    assert summary["stains_kept"] == 1
    patches, normaliser = Patches(source.parent / "a.zarr"), Normaliser.fit("macenko", tissue(0))
    assert np.array_equal(patches.images[1], normaliser.apply(tissue(11, 0.6)))
    assert np.array_equal(patches.images[7], glass())
    assert patches.store.read("stained").tolist() == [1] * 7 + [2, 1, 1]
    header = patches.store.header
    assert header["settings"]["stain"] == {
        "method": "macenko",
        "reference": file_checksum(source.parent / "reference.png"),
    }
    assert header["stain"]["reference"] == "reference.png"
    assert header["stain"]["stains"] == normaliser.parameters["stains"]
    other = run("ingest", source, "-o", source.parent / "a.zarr")
    assert other.code == 3
    assert "stain" in other.err


def test_workers_and_threads_do_not_change_a_byte(source: Path) -> None:
    stained(source, "one.zarr", "--shard-size", 3, "--threads", 2)
    stained(source, "two.zarr", "--shard-size", 3, "--workers", 2, "--threads", 1)
    assert array_files(source.parent / "one.zarr") == array_files(source.parent / "two.zarr")


def test_a_patch_store_is_a_reference_too(source: Path) -> None:
    root, other = source.parent, write_diagset(source.parent / "diagset", scans=3)
    done("ingest", other, "-o", root / "other.zarr")
    done("ingest", source, "-o", root / "p.zarr", "--stain", "reinhard", "--stain-reference", root / "other.zarr")
    store, whole = Patches(root / "p.zarr"), Patches(root / "other.zarr")
    rows = np.linspace(0, len(whole) - 1, 16).round().astype(int)
    assert len(set(rows.tolist())) == 16 < len(whole)
    normaliser = Normaliser.fit("reinhard", np.concatenate(list(whole.read(rows))))
    assert np.array_equal(store.images[0], normaliser.apply(tissue(10, 0.6)))
    assert store.store.header["settings"]["stain"]["reference"] == whole.digest


def test_references_that_are_none(source: Path) -> None:
    folder = source.parent
    (folder / "notes.txt").write_text("pink")
    Image.fromarray(tissue(0)[..., 0]).save(folder / "grey.png")
    Image.fromarray(glass()).save(folder / "glass.png")
    for name, words in (
        ("nothing.png", "no such stain reference"),
        ("notes.txt", "is not an image that can be read"),
        ("grey.png", "has mode L"),
        ("glass.png", "too little tissue"),
    ):
        refused = run("ingest", source, "-o", folder / "x", "--stain", "macenko", "--stain-reference", folder / name)
        assert refused.code == 3
        assert words in " ".join(refused.err.split())
        assert not (folder / "x").exists()
    assert run("ingest", source, "-o", folder / "x", "--stain", "macenko").code == 2


def test_real_discs_are_tissue_enough() -> None:
    image, _ = patch(np.random.default_rng(0), 2)
    assert Normaliser.fit("macenko", image).normalised(image) is not None
