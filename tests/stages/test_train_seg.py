"""train-seg: masks without anything to learn are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SEG, done, run


@pytest.mark.parametrize(("chosen", "code"), [((255, None), 3), ((255, 1), 3), ((1, None), 0), ((None, 1), 0)])
def test_training_needs_a_pixel_of_tumor(tmp_path: Path, chosen: tuple[int | None, int | None], code: int) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 1
    for split in ("train", "validation"):
        for k in range(4):
            for folder, values in (("images", rng.integers(0, 255, (32, 32, 3), np.uint8)), ("masks", mask)):
                (tmp_path / "src" / split / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / "src" / split / folder / f"{split}{k}.png")
    flags = [w for flag, value in zip(("--tumor", "--non-tumor"), chosen, strict=True) if value for w in (flag, value)]
    done("ingest", tmp_path / "src", "-o", tmp_path / "n.zarr", *flags)
    outcome = run("train-seg", tmp_path / "n.zarr", "-o", tmp_path / "seg", *SEG, "--epochs", 1)
    assert outcome.code == code, outcome.err
    if code:
        assert (
            f"{tmp_path}/n.zarr: none of its 4 training masks has a pixel of tumor, so nothing can be learned; ingest "
            "it again and choose values that occur with --tumor, --class-map or --mask-threshold"
        ) in outcome.err.replace("\n", " ")
