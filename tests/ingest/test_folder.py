"""The folder format: groups and modes, and how bad images are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from histoxai.ingest.formats.folder import FolderReader
from histoxai.settings import Ingest
from histoxai.store.shards import Store
from tests.conftest import run


def test_folder_groups_and_modes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path, mode in (("b/s1/x.png", "RGB"), ("b/s2/deep/x.tif", "RGB"), ("a/y.jpg", "RGB"), ("a/z.png", "RGBA")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).convert(mode).save(tmp_path / path)
    reader = FolderReader(tmp_path, Ingest())
    index = reader.index
    assert index.classes == ["a", "b"]
    assert index.patch_id == ["a/y#0", "a/z#0", "s1/b/x#0", "s2/deep/b/x#0"]
    assert index.group == ["a/y#0", "a/z#0", "s1", "s2/deep"]
    images, _ = reader.read(1, 3)
    assert np.array_equal(images[0], np.asarray(Image.open(tmp_path / "a/z.png").convert("RGB")))
    assert FolderReader(tmp_path, Ingest(classes=("b",))).index.notes == ["left out: a (choose with --classes)"]


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
