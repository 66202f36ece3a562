"""What takes minutes: the demo as a newcomer runs it, the ingest benchmark, and real tissue."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from histoxai.networks.run_folder import open_run
from histoxai.score.measures.base import PatchMasks, RenderedMap
from histoxai.score.profiles.thesis import ThesisProfile
from histoxai.settings import Score
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import ROOT, done

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


def reaches(ratio: float, goal: str) -> bool:
    """Whether a benchmark's row reaches its goal, such as ">= 0.7"."""
    sign, number = goal.split()
    return ratio >= float(number) if sign == ">=" else ratio <= float(number)


def bench(name: str) -> list[dict[str, Any]]:
    """A benchmark's rows, from one round where it has several."""
    command = [sys.executable, ROOT / "scripts" / "bench.py", name, "--json"]
    env = {**os.environ, "HISTOXAI_BENCH_ROUNDS": "1", "HISTOXAI_BENCH_LIMITS": "0"}
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


# Rows that reach their goal by no more than this machine's mood: for a quiet one (`scripts/bench read`, `ingest`).
NO_ROOM = ("random patch, to oindex", "loader, two workers, to z[i]", "two workers, to one")


@pytest.mark.parametrize("name", ["ingest", "read", "memory"])
def test_benchmarks_reach_their_goals(name: str) -> None:
    """In one of three runs: what else the machine is doing is no fault of ours."""
    for _ in range(3):
        wanted = [r for r in bench(name) if r["name"] not in NO_ROOM]
        missed = [r for r in wanted if not reaches(r["ratio"], r["goal"])]
        if not missed:
            break
    assert wanted
    assert not missed


def test_explaining_is_as_much_faster_than_the_libraries_as_promised() -> None:
    """Rates with room to spare; LIME's, and shares of the limit, are for a quiet machine (`scripts/bench explain`)."""
    promised = ("ig", "nt", "gradcam", "all four")
    for _ in range(2):
        rows = {r["name"]: r for r in bench("explain")}
        wanted = [rows[f"{name}, rate to the library"] for name in promised]
        missed = [r for r in wanted if not reaches(r["ratio"], r["goal"])]
        if not missed:
            break
    assert not missed


def test_scoring_is_as_much_faster_than_the_libraries_as_promised() -> None:
    promised = ("six measures, ready planes", "all measures, to libraries", "memory, twice the patches")
    for _ in range(2):
        wanted = [r for r in bench("score") if r["name"].startswith(promised)]
        missed = [r for r in wanted if not reaches(r["ratio"], r["goal"])]
        if not missed:
            break
    assert len(wanted) == 3
    assert not missed


def consep_as_pannuke(source: Path, root: Path, n: int) -> Path:
    """CoNSeP as a PanNuke tree: epithelial (3) as neoplastic, spindle (4) as connective; test is fold 3."""
    for fold, part in ((1, "train"), (2, "train"), (3, "test")):
        files = sorted((source / "consep" / "images" / part).glob("*.jpg"))[fold - 1 :: 3][:n]
        images = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
        kinds = [np.asarray(Image.open(source / "consep" / "seg_mask" / part / f"{f.stem}.png")) for f in files]
        masks = np.zeros((*images.shape[:3], 6), np.uint8)
        for i, kind in enumerate(kinds):
            masks[i, ..., 0], masks[i, ..., 2], masks[i, ..., 5] = kind == 3, kind == 4, kind == 0
        (root / f"fold{fold}").mkdir(parents=True)
        np.save(root / f"fold{fold}" / "images.npy", images)
        np.save(root / f"fold{fold}" / "masks.npy", masks)
    return root


def crc5_folder(source: Path, root: Path, per_class: int) -> Path:
    """A few crc5 patches of two classes, as a class-per-folder tree of links."""
    for name in ("H", "AC"):
        (root / name).mkdir(parents=True)
        for path in sorted((source / "crc5" / "training" / name).glob("*.jpg"))[:per_class]:
            (root / name / path.name).symlink_to(path)
    return root


@pytest.mark.real
def test_real_tissue_end_to_end(real_data: Path, tmp_path: Path) -> None:
    """All eight commands on real patches, in small: values are checked, quality is not."""
    folder = crc5_folder(real_data, tmp_path / "crc", 40)
    nuclei = consep_as_pannuke(real_data, tmp_path / "consep", 6)
    p = {n: tmp_path / n for n in ("p", "b", "cls", "n", "seg", "masks", "maps", "scores", "report")}
    assert json.loads(done("ingest", folder, "-o", p["p"], "--mpp", 0.25, "--json"))["classes"] == {"AC": 40, "H": 40}
    done("augment", p["p"], "-o", p["b"])
    done("train-cls", p["b"], "-o", p["cls"], "--epochs", 2, "--batch-size", 16, "--lr", 3e-4)
    done("ingest", nuclei, "-o", p["n"])
    done("train-seg", p["n"], "-o", p["seg"], "--epochs", 2, "--width", 8, "--lr", 0.01, "--batch-size", 2)
    done("masks", p["b"], "--model", p["seg"], "-o", p["masks"])
    fast = ["-O", "ig.steps=10", "-O", "nt.steps=5", "-O", "nt.samples=2", "-O", "lime.samples=50"]
    done("explain", p["b"], "--model", p["cls"], "-o", p["maps"], "--per-class", 2, *fast)
    summary = json.loads(done("score", p["maps"], "--masks", p["masks"], "-o", p["scores"], "--json"))
    assert summary["patches"] == 4
    done("report", p["scores"], "-o", p["report"])
    patches = Patches(p["p"])
    for i in (0, 79):
        name, stem = patches.patch_id[i].split("#")[0].split("/")
        want = np.asarray(Image.open(real_data / "crc5" / "training" / name / f"{stem}.jpg").convert("RGB"))
        assert np.array_equal(patches.images[i], want)


@pytest.mark.real
def test_the_published_iou_is_the_share_of_the_mask(real_data: Path) -> None:
    """The study's tumor rows follow p / (1 + p), and so does our thesis profile of maps that are nearly empty."""
    table = real_data.parent / "reference" / "table6_published.csv"
    if not table.is_file():
        pytest.skip(f"the study's published table is not at {table}")
    rows = {
        (r["metric"], r["method"], r["class"]): float(r["mean"])
        for r in csv.DictReader(table.open())
        if r["mask"] == "tumor"
    }
    classes = [c for metric, method, c in rows if (metric, method) == ("iou", "nt")]
    # nt marks next to nothing, so its pixel accuracy is what the mask leaves
    share = np.array([1 - rows["pixel_accuracy", "nt", c] for c in classes])
    published = np.array([rows["iou", "nt", c] for c in classes])
    assert np.corrcoef(published, share / (1 + share))[0, 1] > 0.9999
    ours = []
    for p in share:
        mask = (np.arange(256 * 256).reshape(256, 256) < p * 256 * 256).astype(float)
        plane = np.zeros((256, 256))
        plane[0, :3] = 1
        rendered = RenderedMap("nt", plane, None, PatchMasks.of(mask[None], 0.5), Score())
        iou = next(m for m in ThesisProfile.measures() if m.name == "iou")
        ours.append(iou.value(rendered.pairs[0]))
    np.testing.assert_allclose(ours, share / (1 + share), atol=1e-4)
    # the mean of p / (1 + p) over patches lies below that of the mean p: by no more than 0.003
    assert (np.array(ours) > published).all()
    np.testing.assert_allclose(ours, published, atol=0.003)
