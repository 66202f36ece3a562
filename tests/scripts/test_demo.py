"""The demo as a newcomer runs it: its report, its second run, its maps and masks against the planted truth."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from histoxai.networks.run_folder import open_run
from histoxai.store.shards import Store
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_demo_names_its_report_and_has_something_to_say(demo: tuple[Path, float, str]) -> None:
    folder, _, out = demo
    assert out.strip().splitlines()[-1] == f"The report: {folder}/report/index.html"
    assert (folder / "report" / "index.html").stat().st_size > 1e6
    classifier = open_run(folder / "cls", "classifier").facts["metrics"]
    assert classifier["mean_class_accuracy"] >= 0.6
    segmenter = open_run(folder / "seg", "segmenter").facts["metrics"]["masks"]
    assert segmenter["tumor"]["iou"] >= 0.5


def test_demo_again_is_a_no_op(demo: tuple[Path, float, str]) -> None:
    folder, first, _ = demo
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    started = time.monotonic()
    subprocess.run([ROOT / "scripts" / "demo", folder], capture_output=True, check=True)
    assert time.monotonic() - started < max(60, first / 2)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_demo_maps_find_the_planted_evidence(demo: tuple[Path, float, str]) -> None:
    """GradCAM's maps lie on the true tumor nuclei of R5 more than a map that points anywhere."""
    folder, _, _ = demo
    scores = Store(folder / "scores.zarr")
    axes = scores.header["axes"]
    of = [axes["profile"].index("corrected"), axes["metric"].index("precision")]
    label = scores.read("label")
    precision = scores.read("values")[label == 6, axes["method"].index("gradcam"), 0][:, of[0], of[1]]
    counts = scores.read("counts")[label == 6, 0, 0]
    prevalence = (counts[:, 0] + counts[:, 2]) / counts.sum(axis=1)
    assert np.nanmean(precision) > prevalence.mean()


def test_demo_masks_agree_with_the_truth_beside_the_data(demo: tuple[Path, float, str]) -> None:
    folder, _, _ = demo
    masks = Store(folder / "masks.zarr")
    both = either = 0
    for k, patch_id in enumerate(masks.read("patch_id").tolist()):
        scan, name, rest = patch_id.split("/")
        stem, number = rest.split("#")
        packed = np.load(ROOT / "sample_data/diagset/truth" / scan / name / f"{stem}.npy", allow_pickle=False)
        truth = np.unpackbits(packed[int(number)], axis=-1).astype(bool)
        found = masks.read("probability", k, k + 1)[0, 0] > 0.5
        both, either = both + (found & truth).sum(), either + (found | truth).sum()
    assert both / either >= 0.5
