"""Readers: what they read, and how they refuse what they cannot."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.diagset import DiagSetFormat
from histoxai.ingest.formats.folder import FolderFormat
from histoxai.ingest.formats.pannuke import PanNukeFormat
from histoxai.settings import Ingest
from histoxai.store.shards import Store
from tests.conftest import CLASSES, run, write_diagset, write_pannuke

BLOB = "blobs/S/20x/scan1/N/scan1.blob.0.npy"


def test_diagset(tmp_path: Path) -> None:
    root = write_diagset(tmp_path / "d")
    (root / "blobs/S/20x/scan0/BG").mkdir()
    folder = root / "partitions" / "DiagSet-A"
    folder.mkdir(parents=True)
    for name, scans in (("train", "scan0\nscan1"), ("validation", "scan2"), ("test", "scan3")):
        (folder / f"{name}.csv").write_text(f"scan_id\n{scans}\n")
    reader = DiagSetFormat(root, Ingest(classes=("A", "N", "R1")))
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


@pytest.mark.parametrize("spelling", ["short", "long"])
@pytest.mark.parametrize("dtype", ["uint8", "float64", "int32"])
def test_pannuke(tmp_path: Path, spelling: str, dtype: str) -> None:
    root = write_pannuke(tmp_path / "p", spelling=spelling, dtype=dtype)
    assert PanNukeFormat.recognises(root)
    reader = PanNukeFormat(root, Ingest())
    assert reader.index.split == [1] * 8 + [2] * 4
    assert (reader.index.mpp, reader.index.patch_id[5]) == (0.25, "fold2/images#1")
    images, targets = reader.read(3, 6)
    assert images.dtype == np.uint8
    assert targets is not None
    plain = PanNukeFormat(write_pannuke(tmp_path / "plain"), Ingest())
    want_images, want_targets = plain.read(3, 6)
    assert np.array_equal(images, want_images)
    assert np.array_equal(targets, want_targets)
    assert targets[:, 1, :4, :4].all()
    assert targets[:, 1].sum() == 3 * 16
    other = PanNukeFormat(root, Ingest(tumor=("epithelial",), non_tumor=("neoplastic", "connective")))
    swapped = other.read(3, 6)[1]
    assert swapped is not None
    assert not swapped[:, 0].any()
    assert np.array_equal(swapped[:, 1], want_targets.max(axis=1))


def test_folder_groups_and_modes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path, mode in (("b/s1/x.png", "RGB"), ("b/s2/deep/x.tif", "RGB"), ("a/y.jpg", "RGB"), ("a/z.png", "RGBA")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).convert(mode).save(tmp_path / path)
    reader = FolderFormat(tmp_path, Ingest())
    index = reader.index
    assert index.classes == ["a", "b"]
    assert index.patch_id == ["a/y#0", "a/z#0", "s1/b/x#0", "s2/deep/b/x#0"]
    assert index.group == ["a/y#0", "a/z#0", "s1", "s2/deep"]
    images, _ = reader.read(1, 3)
    assert np.array_equal(images[0], np.asarray(Image.open(tmp_path / "a/z.png").convert("RGB")))
    assert FolderFormat(tmp_path, Ingest(classes=("b",))).index.notes == ["left out: a (choose with --classes)"]


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
        DiagSetFormat(root, Ingest(classes=CLASSES))
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    for source, words in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "is empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        outcome = run("ingest", source, "-o", tmp_path / "o.zarr")
        assert (outcome.code, outcome.out) == (3, "")
        assert words in outcome.err
    (tmp_path / "what").mkdir()
    (tmp_path / "what" / "x.txt").write_text("x")
    assert "not recognised" in run("ingest", tmp_path / "what", "-o", tmp_path / "o.zarr").err
    assert run("ingest", tmp_path / "what", "-o", tmp_path / "o.zarr", "--format", "dicom").code == 2


def five_images(source: Path, broken: int) -> np.random.Generator:
    """A class of five images, one of them cut off behind its header, so that only reading it shows."""
    (source / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(source / "a" / f"{i}.png")
    path = source / "a" / f"{broken}.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return rng


def test_an_image_that_does_not_decode_keeps_finished_shards_only(tmp_path: Path) -> None:
    for broken, kept in ((1, None), (4, [0, 1])):
        source, output = tmp_path / f"src{broken}", tmp_path / f"o{broken}.zarr"
        five_images(source, broken)
        outcome = run("ingest", source, "-o", output, "--shard-size", 2)
        assert outcome.code == 3
        assert f"{broken}.png: does not decode" in outcome.err
        assert output.exists() == (kept is not None)
        if kept is not None:
            assert [r["shard"] for r in Store(output).completeness()["images"]["records"]] == kept


def test_images_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "src"
    rng = five_images(source, 4)
    (source / "a" / "4.png").write_bytes(b"no image")
    assert "is not an image" in run("ingest", source, "-o", tmp_path / "o.zarr").err
    Image.fromarray(rng.integers(0, 255, (64, 32, 3), np.uint8)).save(source / "a" / "4.png")
    assert "32 x 64 px but" in run("ingest", source, "-o", tmp_path / "o.zarr").err
    Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(source / "a" / "4.png")
    assert "expected 8-bit RGB" in run("ingest", source, "-o", tmp_path / "o.zarr").err
    assert run("ingest", source, "-o", tmp_path / "o.zarr", "--classes", "nope").code == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 255.0, "not whole numbers"),
        (lambda x: x.astype(np.int32) - 300, "not whole numbers"),
    ],
)
def test_pannuke_values_out_of_range_are_refused(tmp_path: Path, change: Callable, message: str) -> None:
    root = write_pannuke(tmp_path / "p")
    np.save(root / "fold2" / "images.npy", change(np.load(root / "fold2" / "images.npy")))
    outcome = run("ingest", root, "-o", tmp_path / "o.zarr")
    assert outcome.code == 3
    assert message in outcome.err
    assert "fold2/images.npy" in outcome.err
    assert not (tmp_path / "o.zarr").exists()


def test_bad_pannuke_is_refused(tmp_path: Path) -> None:
    root = write_pannuke(tmp_path / "p")
    assert "no nucleus type 'nerve'" in run("ingest", root, "-o", tmp_path / "o", "--tumor", "nerve").err
    assert run("ingest", root, "-o", tmp_path / "o", "--classes", "A").code == 3
    np.save(root / "fold1" / "masks.npy", np.zeros((4, 64, 64, 5), np.uint8))
    assert "expected (4, 64, 64, 6)" in run("ingest", root, "-o", tmp_path / "o").err
    np.save(root / "fold1" / "masks.npy", np.zeros((0, 64, 64, 6), np.uint8))
    np.save(root / "fold1" / "images.npy", np.zeros((0, 64, 64, 3), np.uint8))
    assert "holds no patch" in run("ingest", root, "-o", tmp_path / "o").err
    (root / "Fold 2").mkdir()
    assert "has 0 images.npy" in run("ingest", root, "-o", tmp_path / "o").err
    for name in ("images", "masks"):
        np.save(root / "Fold 2" / f"{name}.npy", np.load(root / "fold2" / f"{name}.npy"))
    assert "is a second fold 2" in run("ingest", root, "-o", tmp_path / "o").err
    (root / "fold1" / "masks.npy").unlink()
    assert "expected one of each" in run("ingest", root, "-o", tmp_path / "o", "--format", "pannuke").err
