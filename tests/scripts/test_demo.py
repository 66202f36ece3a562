"""The demo as a newcomer runs it: its report, its second run, its maps and masks against the planted truth."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from histoxai.explain.maps_store import stored_methods
from histoxai.networks.run_folder import open_run
from histoxai.store.shards import Store
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_demo_names_its_report_and_has_something_to_say(demo: tuple[Path, float, str]) -> None:
    folder, _, out = demo
    assert out.strip().splitlines()[-1] == f"The report: {folder}/report/index.html"
    assert (folder / "report" / "index.html").stat().st_size > 1e6
    classifier = open_run(folder / "cls", "classifier").facts["metrics"]
    assert classifier["mean_class_accuracy"] >= 0.75
    segmenter = open_run(folder / "seg", "segmenter").facts["metrics"]["masks"]
    assert segmenter["tumor"]["iou"] >= 0.5


def test_demo_again_is_a_no_op(demo: tuple[Path, float, str]) -> None:
    folder, first, _ = demo
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    started = time.monotonic()
    subprocess.run([ROOT / "scripts" / "demo", folder], capture_output=True, check=True)
    assert time.monotonic() - started < max(60, first / 2)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_demo_has_groups_enough_for_every_class(demo: tuple[Path, float, str]) -> None:
    folder, _, _ = demo
    scores = Store(folder / "scores.zarr")
    group, label, wrong = (scores.read(name) for name in ("group", "label", "prediction"))
    assert len(set(group.tolist())) >= 16
    assert all(len(set(group[label == code].tolist())) >= 10 for code in range(7))
    masks = Store(folder / "balanced.zarr").header
    assert masks["settings"]["split_by"] == "group"
    assert (wrong != label).any()


def test_demo_maps_lie_on_the_planted_ink(demo: tuple[Path, float, str]) -> None:
    """GradCAM's maps of the class with pen marks lie on the true marks more than chance, and the page says so."""
    folder, _, _ = demo
    maps = Store(folder / "maps.zarr")
    gradcam = next(m for m in stored_methods(maps) if m.name == "gradcam")
    ratios = []
    for row, patch_id in enumerate(maps.read("patch_id").tolist()):
        scan, name, _ = patch_id.split("/")
        path = ROOT / "sample_data/diagset/ink" / scan / name / f"{scan}.blob.0.npy"
        if path.exists():
            ink = np.unpackbits(np.load(path, allow_pickle=False)[0], axis=-1).astype(bool)
            relevance = gradcam.relevance(gradcam.take(maps, np.array([row])), 0, ink.shape, "own")
            if relevance.sum() > 0:
                ratios.append(relevance[ink].sum() / relevance.sum() / ink.mean())
    assert len(ratios) >= 10
    assert np.mean(ratios) > 1.2
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "That the classifier knows R3 by tissue alone: gradcam puts " in page


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
