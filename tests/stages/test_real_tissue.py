"""All stages on real tissue, and the study's published numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.score.measures.counts import confusion_counts
from histoxai.score.profiles.profiles import METRICS, Mask
from histoxai.score.profiles.thesis import ThesisProfile
from histoxai.store.patches import Patches
from tests.conftest import done

pytestmark = pytest.mark.slow


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
        masks = [Mask.of(mask, 0.5)]
        counts = confusion_counts((plane > 0.3).ravel(), masks[0].binary.ravel())[None]
        ours.append(ThesisProfile(0.3, 0.5).score(plane, masks, "nt", counts, counts)[0, METRICS.index("iou")])
    np.testing.assert_allclose(ours, share / (1 + share), atol=1e-4)
    # the mean of p / (1 + p) over patches lies below that of the mean p: by no more than 0.003
    assert (np.array(ours) > published).all()
    np.testing.assert_allclose(ours, published, atol=0.003)
