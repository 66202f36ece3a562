"""docs/quickstart.md: its commands, run one by one as they stand there, on small made images."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.store.shards import Store
from tests.conftest import ROOT, array_files, patch, run

PX = 32
# The page's commands run as printed; variables make the networks small and the trainings short.
FAST = {
    "HISTOXAI_SEED": "0",
    "HISTOXAI_TRAIN_CLS_ARCH": "resnet18",
    "HISTOXAI_TRAIN_CLS_EPOCHS": "1",
    "HISTOXAI_TRAIN_CLS_THREADS": "1",
    "HISTOXAI_TRAIN_SEG_EPOCHS": "5",
    "HISTOXAI_TRAIN_SEG_THREADS": "1",
    "HISTOXAI_TRAIN_SEG_WIDTH": "4",
    "HISTOXAI_TRAIN_SEG_LR": "0.01",
    "HISTOXAI_EXPLAIN_OPTION": "ig.steps=4",
    "HISTOXAI_SCORE_REPETITIONS": "100",
    "HISTOXAI_REPORT_EXAMPLES": "0",
}


def commands() -> list[list[str]]:
    """The `histoxai` commands of the page's sh blocks, in order, as words."""
    page = (ROOT / "docs" / "quickstart.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def write_images(root: Path) -> None:
    """The two folders that the page asks for: patches of two classes from six scans, and twelve nuclei images."""
    for scan in range(6):
        for label, name in enumerate(("benign", "tumor")):
            folder = root / "images" / name / f"slide{scan}"
            folder.mkdir(parents=True)
            rng = np.random.default_rng([scan, label])
            for k in range(3):
                Image.fromarray(patch(rng, label)[0][:PX, :PX]).save(folder / f"{k}.png")
    for folder in ("images", "masks"):
        (root / "nuclei" / folder).mkdir(parents=True)
    for k in range(12):
        image, mask = patch(np.random.default_rng(k), 1)
        values = mask.astype(np.uint8) * (1 + k % 2)
        Image.fromarray(image[:PX, :PX]).save(root / "nuclei" / "images" / f"{k:02}.png")
        Image.fromarray(values[:PX, :PX]).save(root / "nuclei" / "masks" / f"{k:02}.png")


def test_commands_of_the_quickstart_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    steps = commands()
    assert [step[0] for step in steps] == [
        *("ingest", "augment", "audit", "train-cls", "ingest", "augment", "train-seg", "masks"),
        *("explain", "score", "report", "info"),
    ]
    for step in steps:
        outcome = run(*step)
        assert outcome.code == 0, (step, outcome.err)

    assert Store(tmp_path / "patches.zarr").array("images").shape == (36, PX, PX, 3)
    assert json.loads(run("audit", "balanced.zarr", "--json").out)["leaking"] is False
    scores = json.loads(run(*next(s for s in steps if s[0] == "score"), "--json").out)
    assert {row["method"] for row in scores["rows"]} == {"ig", "gradcam", "random", "center"}
    assert {row["mask"] for row in scores["rows"]} >= {"tumor", "nontumor"}
    assert (tmp_path / "report" / "index.html").read_text().startswith("<!doctype html>")

    explain = next(s for s in steps if s[0] == "explain")
    before = array_files(tmp_path / "maps.zarr")
    assert run(*explain).code == 0
    assert array_files(tmp_path / "maps.zarr") == before
    assert run(*explain, "-O", "ig.steps=5").code == 3
