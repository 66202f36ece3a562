"""Compare scoring with the study's own computation, and with scikit-learn and Quantus."""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from sklearn import metrics as sk

from benches.common import inputs, peak_megabytes, row, write_shards
from histoxai.core import provenance, resources
from histoxai.core.progress import Silent
from histoxai.explain.bases.method import channels_to_plane
from histoxai.explain.job import ExplainInputs
from histoxai.score import scores_store
from histoxai.score.measures import counts as c
from histoxai.score.profiles.thesis import line_means, soft_iou
from histoxai.settings import Explain, Score, Statistics, Work
from histoxai.stages import explain, score
from histoxai.statistics.confusion import confusion_counts
from histoxai.store.create import create_or_match
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store

PATCHES, SIZE = 128, 256
METHODS = ("ig", "nt", "lime", "gradcam")
OPTIONS = ("ig.steps=2", "nt.steps=1", "nt.samples=1", "lime.samples=16")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(ours: Callable[[], object], other: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Compare medians of alternating rounds."""
    pairs = [(seconds(ours), seconds(other)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def make_masks(patches: Store, path: Path) -> Store:
    """Draw soft blobs over a fifth of each patch, like a segmenter's probabilities."""
    n = len(patches.read("patch_id"))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(n, 2, SIZE, SIZE))
    smooth = np.stack([[gaussian_filter(p, 6, mode="wrap") for p in pair] for pair in noise])
    edge = np.quantile(smooth, 0.8, axis=(2, 3), keepdims=True)
    probability = (1 / (1 + np.exp(-30 * (smooth - edge) / smooth.std()))).astype(np.float32)
    parents = {
        "patches": provenance.parent(patches.path, path, patches.digest()),
        "segmenter": {"path": "x", "digest": "d"},
    }
    item = Item("masks", (ArraySpec("probability", probability.shape, np.float32, 64),))
    index = {"row": np.arange(n, dtype=np.int32), "patch_id": patches.read("patch_id")}
    header = provenance.header("masks/1", {"split": "test", "scale": 1.0}, None, parents)
    store = create_or_match(path, header, index, [item])
    write_shards(store, item, {"probability": probability})
    return store


def make_maps(work: Path, patches: Path, model: Path) -> Path:
    chosen = Explain(methods=METHODS, options=OPTIONS, device="cpu")
    explain.explain(ExplainInputs(patches, model), work / "maps.zarr", chosen, Silent(), Work(threads=2))
    return work / "maps.zarr"


# ---- the study's way


def study_six(found: np.ndarray, truth: np.ndarray) -> None:
    """Compute the study's six measures of two binary planes (H, W), each with its library."""
    a, b = found.T.astype(int), truth.T.astype(int)
    for measure in (sk.precision_score, sk.recall_score, sk.f1_score):
        measure(b, a, average="macro", zero_division=0)
    spearmanr(found.ravel(), truth.ravel())
    (found == truth).mean()
    soft = torch.sigmoid(torch.from_numpy(found.astype(np.float32)))
    both = (soft * torch.from_numpy(truth.astype(np.float32))).sum()
    float((both + 1) / (soft.sum() + float(truth.sum()) - both + 1))


def our_six(found: np.ndarray, masks: np.ndarray) -> None:
    """The same of one binary plane (H, W) against its masks (K, H, W)."""
    lines = confusion_counts(found, masks)
    line_means(lines)
    four = lines.sum(axis=1)
    c.phi(four), c.pixel_accuracy(four)
    for counts in four:
        soft_iou(counts)


def ready_planes(maps: Store, masks: Store) -> list[tuple[np.ndarray, np.ndarray]]:
    planes = [channels_to_plane(raw, 0.0) > 0.3 for raw in maps.take("attributions/ig", np.arange(8))]
    return list(zip(planes, masks.take("probability", np.arange(8)) > 0.5, strict=True))


def study_from_store(maps: Path, masks: Path, patches: int) -> None:
    """Score patch by patch: read z[i], render, binarise, and compute six measures against both masks."""
    group = zarr.open_group(maps, mode="r", use_consolidated=False)
    planes = zarr.open_group(masks, mode="r", use_consolidated=False)["probability"]
    for i in range(patches):
        truth = planes[i] > 0.5
        for name in ("ig", "nt"):
            found = channels_to_plane(group[f"attributions/{name}"][i], 0.0) > 0.3
            for plane in truth:
                study_six(found, plane)


# ---- all measures with libraries


def libraries_all(relevance: np.ndarray, plane: np.ndarray, masks: np.ndarray, quantus: Any) -> None:
    """Score one map against two masks: scikit-learn's curves, Quantus' localisation, six measures at 3 thresholds."""
    for truth in masks > 0.5:
        flat = truth.ravel()
        sk.roc_auc_score(flat, relevance.ravel())
        sk.average_precision_score(flat, relevance.ravel())
        area = relevance >= np.sort(relevance.ravel())[-truth.sum()]
        for found in (plane > 0.3, area, relevance > relevance.mean()):
            ones = found.ravel()
            for measure in (sk.jaccard_score, sk.precision_score, sk.recall_score, sk.f1_score):
                measure(flat, ones, zero_division=0)
            sk.matthews_corrcoef(flat, ones)
            sk.accuracy_score(flat, ones)
        spearmanr(plane.ravel(), truth.ravel())
        for metric in quantus:
            metric(
                model=None,
                x_batch=np.zeros((1, 1, SIZE, SIZE), np.float32),
                y_batch=np.zeros(1, int),
                a_batch=relevance[None, None],
                s_batch=truth[None, None].astype(np.float32),
            )


def quantus_metrics() -> list[Any]:
    """Return Quantus' localisation metrics, or none where Quantus is not installed."""
    if importlib.util.find_spec("quantus") is None:
        return []
    import quantus

    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
    kinds = (
        quantus.RelevanceMassAccuracy,
        quantus.RelevanceRankAccuracy,
        quantus.PointingGame,
        quantus.TopKIntersection,
    )
    return [kind(**quiet) for kind in kinds]


def bench_score(work: Path) -> list[dict[str, Any]]:
    """Compare rates with the study, the libraries, bare reading, and two workers with one; and memory."""
    warnings.simplefilter("ignore")
    resources.keep_freed_memory()
    torch.set_num_threads(2)
    patches, model = inputs(work, PATCHES, "bench", size=SIZE)
    maps = make_maps(work, patches, model)
    masks = make_masks(Store(patches), work / "masks.zarr").path
    return [
        six_row(maps, masks),
        *all_rows(work, maps, masks),
        workers_row(work, maps, masks),
        *summary_rows(work, maps, masks),
        memory_row(work, maps, masks),
    ]


def six_row(maps: Path, masks: Path) -> dict[str, Any]:
    """Compare the six measures alone, on planes in memory."""
    pairs = ready_planes(Store(maps), Store(masks))
    ours, other = alternate(
        lambda: [our_six(*p) for p in pairs for _ in range(50)],
        lambda: [study_six(found, truth) for found, masks in pairs for truth in masks],
    )
    n = 2 * len(pairs)
    return row("six measures, ready planes", ours / n / 50, other / n, other / ours * 50, ">= 300")


def all_rows(work: Path, maps: Path, masks: Path) -> list[dict[str, Any]]:
    """Compare everything that `score` stores, from store to store."""
    outputs = (work / f"s{k}.zarr" for k in itertools.count())
    pairs = PATCHES * len(METHODS) * 2

    def ours(workers: int = 1, threads: int = 2, of: str = "all") -> float:
        job = Work(workers=workers, threads=threads)
        chosen = Score(shard_size=16, measures=of)
        return seconds(lambda: score.fill_scores(score.ScoreInputs(maps, masks), next(outputs), chosen, Silent(), job))

    store, names = Store(maps), list(Store(maps).arrays("attributions"))
    probability = Store(masks)

    def reading() -> None:
        for a in range(0, PATCHES, 16):
            for name in names:
                store.take(name, np.arange(a, a + 16))
            probability.take("probability", np.arange(a, a + 16))

    some = 4
    raw = store.take("attributions/ig", np.arange(some))
    truth = probability.take("probability", np.arange(some))
    others = quantus_metrics()
    planes = [channels_to_plane(r, 0.0) for r in raw]

    def libraries() -> None:
        for i in range(some):
            libraries_all(np.abs(raw[i]).sum(axis=0), planes[i], truth[i], others)

    ours(), reading()
    whole, counted, read, theirs, study = [], [], [], [], []
    for _ in range(3):
        whole.append(ours() / pairs)
        counted.append(ours(of="counts") / pairs)
        read.append(seconds(reading) / pairs)
        theirs.append(seconds(libraries) / some / 2)
        study.append(seconds(lambda: study_from_store(maps, masks, some)) / some / 4)
    a, b, r, t, s = (statistics.median(x) for x in (whole, counted, read, theirs, study))
    name = "all measures, to libraries" + ("" if others else " (no Quantus)")
    hours = a * 36_862 * 4 * 2 / 3600
    return [
        row("six measures, store to store", b, s, s / b, ">= 25"),
        row("six measures, share of reading", b, r, r / b, ">= 0.7"),
        row(name, a, t, t / a, ">= 20"),
        row("hours for 36,862 x 4 x 2, all", hours * 3600, 0.0, hours, "told"),
    ]


def workers_row(work: Path, maps: Path, masks: Path) -> dict[str, Any]:
    """Compare two workers with one, from the first shard's beginning to the last one's end, without start-up."""

    def once(workers: int) -> float:
        output = work / f"w{workers}.zarr"
        work_settings = Work(workers=workers, threads=1, force=output.exists())
        score.fill_scores(score.ScoreInputs(maps, masks), output, Score(shard_size=4), Silent(), work_settings)
        ends = []
        for record in Store(output).completeness()["scores"]["records"]:
            end = (output / "_done" / "scores" / f"{record['shard']}.json").stat().st_mtime
            ends.append((end - record["seconds"], end))
        return max(b for _, b in ends) - min(a for a, _ in ends)

    pairs = [(once(2), once(1)) for _ in range(3)]
    two, alone = (statistics.median(x) for x in zip(*pairs, strict=True))
    return row("two workers, to one", two, alone, alone / two, ">= 1.7")


def summary_rows(work: Path, maps: Path, masks: Path) -> list[dict[str, Any]]:
    """Measure the seconds that `--json` adds to reading the stored values."""
    path = next(work.glob("s*.zarr"))
    took = seconds(lambda: scores_store.summary(path, "corrected", Statistics(), Silent()))
    return [row(f"summary of {PATCHES} patches", took, 0.0, took, "told")]


def memory_row(work: Path, maps: Path, masks: Path) -> dict[str, Any]:
    """Compare peak memory (MB) of one shard with that of four shards."""
    common = ["score", maps, "--masks", masks, "--quiet", "--jsonl"]
    whole = peak_megabytes(*common, "-o", work / "m1.zarr", "--shard-size", 64, "--count-shards")
    small = peak_megabytes(*common, "-o", work / "m2.zarr", "--shard-size", 16, "--shard", "0-1")
    large = peak_megabytes(*common, "-o", work / "m3.zarr", "--shard-size", 64, "--shard", "0")
    return row(f"memory, twice the patches (MB; {whole:.0f} idle)", large, small, large / small, "<= 1.2")
