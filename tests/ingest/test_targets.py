"""Target planes: which mask values are tumor, and what is refused where that is unclear."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from histoxai.core.errors import InputRefused, UsageError
from histoxai.ingest.formats.npy import NpyFormat
from histoxai.ingest.formats.pairs import PairsFormat
from histoxai.settings import Ingest
from histoxai.store.shards import Store
from tests.conftest import run

RNG = np.random.default_rng(0)
TRUTH = np.zeros((64, 64), bool)
TRUTH[10:30, 10:40] = True  # 600 px
FULL = (TRUTH * 255).astype(np.uint8)
DECIDE = (
    "say what is tumor: --mask-threshold 128 (grey edges or probabilities; 1 for numbered objects), --ignore-value 255 "
    "(a number that counts as background), or --class-map 1=tumor,2=stroma"
)


def pairs(root: Path, *masks: np.ndarray) -> Path:
    for k, mask in enumerate(masks):
        for folder, values in (("images", RNG.integers(0, 255, (64, 64, 3), np.uint8)), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / folder / f"a{k}.png")
    return root


def as_jpeg(mask: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


def ignoring() -> np.ndarray:
    values = TRUTH.astype(np.uint8)
    values[40:50] = 255
    return values


GREY = {
    "JPEG saved as PNG": as_jpeg(FULL),
    "bilinear": cv2.resize(cv2.resize(FULL, (50, 50)), (64, 64), interpolation=cv2.INTER_LINEAR),
    "probabilities": (255 * cv2.GaussianBlur(TRUTH.astype(np.float32), (0, 0), 3)).astype(np.uint8),
}


@pytest.mark.parametrize("kind", GREY)
def test_grey_masks_are_refused_without_a_threshold(tmp_path: Path, kind: str) -> None:
    grey = GREY[kind]
    root = pairs(tmp_path / "src", grey)
    with pytest.raises(InputRefused) as error:
        PairsFormat(root, Ingest())
    numbers = len(np.unique(grey[grey > 0]))
    assert str(error.value).startswith(f"{root}/masks/a0.png: holds {numbers} numbers beside 0: ")
    assert str(error.value).endswith(DECIDE)
    assert f"{int((grey == 0).sum()):,} px of 0" in str(error.value)
    planes = PairsFormat(root, Ingest(mask_threshold=128)).read(0, 1)[1]
    assert planes is not None
    assert np.array_equal(planes[0, 0], grey >= 128)
    assert not planes[0, 1].any()
    both = np.logical_and(planes[0, 0], TRUTH).sum() / np.logical_or(planes[0, 0], TRUTH).sum()
    assert both > 0.9  # of what was drawn; 0.24 to 0.9 where everything above 0 is tumor


def test_a_value_to_ignore_is_refused_until_it_is_named(tmp_path: Path) -> None:
    root = pairs(tmp_path / "src", ignoring())
    with pytest.raises(InputRefused) as error:
        PairsFormat(root, Ingest())
    assert str(error.value) == (
        f"{root}/masks/a0.png: holds 2 numbers beside 0: 2,856 px of 0, 600 px of 1, 640 px of 255; {DECIDE}"
    )
    for settings in (Ingest(ignore_value=255), Ingest(ignore_value=255, class_map=("1=tumor",))):
        reader = PairsFormat(root, settings)
        planes = reader.read(0, 1)[1]
        assert planes is not None
        assert np.array_equal(planes[0, 0], TRUTH)
        assert reader.index.facts["ignore_value"] == 255
    named = PairsFormat(root, Ingest(ignore_value=255, class_map=("1=tumor",))).index.notes
    assert "masks: tumor: tumor; non-tumor: none (--tumor, --non-tumor); 255 is background (--ignore-value)" in named


def test_one_number_must_be_that_of_all_masks(tmp_path: Path) -> None:
    root = pairs(tmp_path / "src", np.zeros_like(FULL), TRUTH.astype(np.uint8), FULL)
    reader = PairsFormat(root, Ingest())
    with pytest.raises(InputRefused, match=r"a2\.png: holds 255 beside 0, where .*a1\.png holds 1; say what is tumor"):
        reader.read(2, 3)
    outcome = run("ingest", root, "-o", tmp_path / "o.zarr", "--mask-threshold", 1)
    assert outcome.code == 0
    assert Store(tmp_path / "o.zarr").read("targets").sum(axis=(2, 3)).tolist() == [[0, 0], [600, 0], [600, 0]]
    assert "masks: tumor: values from 1 on (--mask-threshold); non-tumor: none" in outcome.err
    assert Store(tmp_path / "o.zarr").header["settings"]["mask_threshold"] == 1


def test_masks_of_single_nuclei_may_be_grey_too(tmp_path: Path) -> None:
    for folder, name, values in (
        ("images", "n", RNG.integers(0, 255, (64, 64, 3), np.uint8)),
        ("masks", "1", FULL),
        ("masks", "2", as_jpeg(np.rot90(FULL).copy())),
    ):
        (tmp_path / "n" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "n" / folder / f"{name}.png")
    reader = PairsFormat(tmp_path, Ingest())
    with pytest.raises(InputRefused, match=r"masks/2\.png: holds \d+ numbers beside 0"):
        reader.read(0, 1)
    planes = PairsFormat(tmp_path, Ingest(mask_threshold=128)).read(0, 1)[1]
    assert planes is not None
    assert np.array_equal(planes[0, 0], TRUTH | (as_jpeg(np.rot90(FULL).copy()) >= 128))


def test_arrays_are_looked_at_as_files_are(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", RNG.integers(0, 255, (3, 64, 64, 3), np.uint8))
    np.save(tmp_path / "masks.npy", np.stack([np.zeros_like(FULL), FULL, ignoring()]))
    with pytest.raises(InputRefused, match=r"masks\.npy: holds 2 numbers beside 0: .*1,240 px of 255"):
        NpyFormat(tmp_path, Ingest())
    planes = NpyFormat(tmp_path, Ingest(mask_threshold=1)).read(0, 3)[1]
    assert planes is not None
    assert planes[:, 0].sum(axis=(1, 2)).tolist() == [0, 600, 1240]
    np.save(tmp_path / "masks.npy", np.stack([FULL] * 3))
    planes = NpyFormat(tmp_path, Ingest()).read(0, 3)[1]
    assert planes is not None
    assert planes[:, 0].sum(axis=(1, 2)).tolist() == [600] * 3


def test_a_threshold_goes_with_no_names() -> None:
    with pytest.raises(UsageError, match="--mask-threshold 128: says which values are tumor; leave it out, or"):
        Ingest(mask_threshold=128, class_map=("1=tumor",))


def test_values_that_never_occur_are_told(tmp_path: Path) -> None:
    root = pairs(tmp_path / "src", TRUTH.astype(np.uint8), TRUTH.astype(np.uint8))
    outcome = run("ingest", root, "-o", tmp_path / "o.zarr", "--tumor", 255, "--non-tumor", 1)
    assert outcome.code == 0
    assert (
        "no mask has a pixel of the tumor plane (255): choose values that occur (--tumor, --class-map, "
        "--mask-threshold)"
    ) in outcome.err.replace("\n", " ")
    assert "non-tumor plane" not in outcome.err
    fine = run("ingest", root, "-o", tmp_path / "p.zarr", "--tumor", 1, "--json")
    assert (fine.code, "no mask has" in fine.out + fine.err) == (0, False)


def test_masks_of_another_format_are_named_with_it(tmp_path: Path) -> None:
    root = pairs(tmp_path / "src", FULL)
    (root / "masks").rename(root / "label masks")
    outcome = run("ingest", root, "-o", tmp_path / "o.zarr", "--masks", "label masks")
    assert outcome.code == 3
    assert (
        "--masks means nothing to sources of format 'folder'; leave it out, or name another --format of those that use "
        "it: pairs (images beside masks), hdf5, zarr and npy"
    ) in outcome.err.replace("\n", " ")
    assert run("ingest", root, "-o", tmp_path / "o.zarr", "--masks", "label masks", "--format", "pairs").code == 0
