"""Several scores stores on one page: tests on what they share, and nothing claimed of what they do not."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from histoxai.report.comparison.answer import ComparisonQuestion, write_comparison_answer
from histoxai.report.comparison.pairs import RunPair, compare_pair, correct_by_holm, join_groups
from histoxai.report.comparison.rotated_copies import contrast_copies
from histoxai.report.comparison.runs import count_other_pixels, names_of
from histoxai.report.lineage import Lineage, resolve_lineage
from histoxai.report.sections.answer import Answer
from histoxai.score import scores_store
from histoxai.score.summary.scores import Method, Scores
from histoxai.settings import Statistics
from histoxai.statistics.tests import holm, paired
from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import Mini, done, run

N, GROUPS = 120, 20


def scores(shift: float, seed: int = 0) -> Scores:
    """Two methods and two masks; the first method is `shift` better on the tumor mask than in a run of shift 0."""
    rng = np.random.default_rng(7)
    values = rng.normal(0.5, 0.05, (N, 2, 2, 1))
    noise = np.random.default_rng(seed).normal(0, 0.02, values.shape)
    values[:, 0, 0, 0] += shift
    label = np.arange(N) % 2
    return Scores(
        profile="corrected",
        values=values + noise,
        chance=np.full(values.shape, 0.5),
        flags=np.zeros((N, 2, 2), np.uint8),
        counts=np.ones((N, 2, 2, 4), np.int64),
        union=np.ones((N, 2, 4), np.int64),
        curves=None,
        mask_curves=None,
        logits=np.zeros((N, 2), np.float32),
        label=label,
        prediction=label.copy(),
        case=np.ones(N, np.int64),
        group=np.array([f"g{k % GROUPS}" for k in range(N)]),
        patch_id=np.array([f"p{k}" for k in range(N)]),
        classes=["A", "R1"],
        methods={"ig": Method("ig", False), "random": Method("random", True)},
        masks=["tumor", "non_tumor"],
        metrics=["auroc"],
        partial=None,
    )


STATISTICS = Statistics(primary="auroc", repetitions=500)


def test_differences_are_those_of_the_paired_test() -> None:
    a, b = scores(0.0), scores(0.1, 1)
    found = compare_pair(a, b, "b", STATISTICS)
    row = found["rows"][0]
    want = paired(b.values[:, 0, 0, 0], a.values[:, 0, 0, 0], a.group, 500, 0)
    assert (row["method"], row["mask"], row["difference"], row["low"], row["p"]) == (
        *("ig", "tumor", want.mean),
        *(want.low, want.p),
    )
    assert row["difference"] == pytest.approx((b.values - a.values)[:, 0, 0, 0].mean())
    assert row["low"] > 0.08
    assert found["rows"][1]["p"] > 0.01
    assert found["accuracy"]["difference"] == 0
    assert holm(np.array([r["p"] for r in found["rows"]]))[0] < 0.05


def test_patches_are_matched_by_their_ids_whatever_their_order() -> None:
    a, b = scores(0.0), scores(0.1, 1)
    order = np.random.default_rng(3).permutation(N)[:80]
    fields = (
        "values",
        "chance",
        "flags",
        "counts",
        "union",
        "logits",
        "label",
        "prediction",
        "case",
        "group",
        "patch_id",
    )
    turned = replace(b, **{k: getattr(b, k)[order] for k in fields})
    found = compare_pair(a, turned, "b", STATISTICS)
    want = (b.values - a.values)[order, 0, 0, 0].mean()
    assert found["rows"][0]["difference"] == pytest.approx(want)
    assert (found["patches"], found["only_first"], found["only_theirs"]) == (80, 40, 0)
    apart = replace(b, patch_id=np.array([f"q{k}" for k in range(N)]))
    found = compare_pair(a, apart, "b", STATISTICS)
    assert found["rows"] == []
    assert found["patches"] == 0
    assert found["accuracy"] is None


def test_groups_are_what_either_run_keeps_together() -> None:
    first, second = np.array(["a", "a", "b", "c", "d"]), np.array(["1", "2", "2", "3", "3"])
    assert len(set(join_groups(first, second).tolist())) == 2
    assert join_groups(first, second)[[0, 2]].tolist() == [join_groups(first, second)[1]] * 2
    assert join_groups(first, first).tolist() == first.tolist()
    a, b = scores(0.0), scores(0.1, 1)
    coarse = replace(b, group=np.array([f"h{k % 4}" for k in range(N)]))
    for x, y in ((a, coarse), (coarse, a)):
        row = compare_pair(x, y, "b", STATISTICS)["rows"][0]
        assert (row["groups"], row["p"]) == (4, None)


def test_only_patches_with_one_class_in_both_tell_classifiers_apart() -> None:
    a, b = scores(0.0), scores(0.1, 1)
    wrong = b.prediction.copy()
    wrong[:12] = 1 - wrong[:12]
    label = b.label.copy()
    label[:30] = -1  # unlabelled there, with all that are wrong
    found = compare_pair(a, replace(b, prediction=wrong, label=label), "b", STATISTICS)
    assert (found["accuracy"]["theirs"], found["accuracy"]["n"], found["other_class"]) == (1.0, 90, 0)
    label[30:40] = 1 - label[30:40]
    found = compare_pair(a, replace(b, prediction=wrong, label=label), "b", STATISTICS)
    assert (found["accuracy"]["theirs"], found["accuracy"]["n"], found["other_class"]) == (1.0, 80, 10)
    found = compare_pair(a, replace(b, prediction=wrong), "b", STATISTICS)
    assert found["accuracy"]["difference"] == pytest.approx(-12 / N)
    assert compare_pair(a, replace(b, label=np.full(N, -1)), "b", STATISTICS)["accuracy"] is None


def answer_to(a: Scores, b: Scores) -> Answer:
    pair = compare_pair(a, b, "b", STATISTICS)
    correct_by_holm([r for r in pair["rows"] if not r["null"]])
    if pair["accuracy"]:
        correct_by_holm([pair["accuracy"]])
    return write_comparison_answer(ComparisonQuestion("a", "pixel AUROC", "tumor", 0.95), [pair])


def test_sentences_claim_what_is_tested_and_no_more() -> None:
    a, b = scores(0.0), scores(0.1, 1)
    found = answer_to(a, b)
    assert found["answer"][0].startswith("On 120 patches that both have, with a value, of 20 groups, ig (+0.1")
    assert "is higher in b than in a" in found["answer"][0]
    assert "no difference is shown" in found["answer"][1]
    assert found["unsupported"] == []
    same = answer_to(a, scores(0.0, 1))
    assert "no method is shown to differ between b and a" in same["answer"][0]
    assert same["unsupported"] == ["That the maps of ig in b differ from those in a."]  # random is a null model
    values = b.values.copy()
    values[:60] = np.nan
    assert answer_to(a, replace(b, values=values))["answer"][0].startswith("On 60 of the 120 patches that both have")
    few = answer_to(replace(a, group=np.array([f"g{k % 4}" for k in range(N)])), b)
    assert "nothing can be claimed of b and a: tests are withheld (4 groups; a test needs 10)" in few["answer"][0]
    assert "that is not tested" in few["answer"][1]
    assert few["unsupported"] == []
    apart = answer_to(a, replace(b, patch_id=np.array([f"q{k}" for k in range(N)])))
    assert "have no patch in common" in apart["answer"][0]


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    assert names_of([tmp_path / "a.zarr", tmp_path / "b.zarr"]) == ["a", "b"]
    assert names_of([tmp_path / "x/s.zarr", tmp_path / "y/s.zarr"]) == ["x/s", "y/s"]


def test_a_page_of_two_runs(mini: Mini, tmp_path: Path) -> None:
    maps, other = tmp_path / "maps.zarr", tmp_path / "other.zarr"
    options = ["-O", "ig.steps=3", "-O", "gradcam.layer=conv2"]
    done("explain", mini.balanced, "--model", mini.cls, "-o", maps, "--method", "ig,gradcam", *options)
    done("score", maps, "--masks", mini.masks, "-o", other)
    before = (mini.scores / "zarr.json").read_bytes()
    command = ["report", mini.scores, other, "-o", tmp_path / "r"]
    made = json.loads(done(*command, "--export", tmp_path / "paper", "--json"))
    assert made["schema"] == "histoxai.comparison/1"
    text = (tmp_path / "r/index.html").read_text()
    assert "ig.steps" in text  # in what they differ
    assert "gradcam.layer" in text
    assert "mask_threshold" not in text  # in what they do not
    assert "was measured in another way" not in text
    data = Store(tmp_path / "r/data.zarr")
    keys = ("method", "mask", "difference", "n")
    stored = {row[:2]: row[2:] for row in zip(*(data.read(f"difference_{k}").tolist() for k in keys), strict=True)}
    assert {m for m, _ in stored} == {"ig", "gradcam"}
    a, b = (Store(p) for p in (mini.scores, other))
    for (method, mask), (difference, n) in stored.items():
        columns = [
            s.read("measures")[:, s.header["axes"]["method"].index(method), s.header["axes"]["mask"].index(mask), 0]
            for s in (b, a)
        ]
        assert b.header["axes"]["measure"][0] == "auroc"
        each = columns[0] - columns[1]
        assert n == np.isfinite(each).sum()
        if n == 0:  # no patch has a non-tumor mask
            assert np.isnan(difference)
            continue
        assert difference == pytest.approx(np.nanmean(each), abs=1e-12)
        assert any(f"<td>{difference:z.{decimals}f}</td>" in text for decimals in (3, 4, 5))
    assert any(n for _, n in stored.values())
    rows = list(csv.DictReader((tmp_path / "paper/tables/differences.csv").open()))
    got = [float(r["difference"] or "nan") for r in rows]
    assert got == pytest.approx([d for d, _ in stored.values()], nan_ok=True)
    assert {p.name for p in (tmp_path / "paper").glob("methods-*")} == {
        f"methods-{n}.{e}" for n in ("scores", "other") for e in ("md", "tex")
    }
    # nothing was written into the inputs, and a second run finds all done
    assert (mini.scores / "zarr.json").read_bytes() == before
    stamp = (tmp_path / "r/index.html").stat().st_mtime_ns
    done(*command)
    assert (tmp_path / "r/index.html").stat().st_mtime_ns == stamp
    assert run("report", other, mini.scores, "-o", tmp_path / "r").code == 3  # another comparison


def test_other_differences_between_runs_are_noted(mini: Mini, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    done("score", mini.maps, "--masks", mini.masks, "-o", other, "--mask-threshold", 0.4)
    done("report", mini.scores, other, "-o", tmp_path / "r")
    text = (tmp_path / "r/index.html").read_text()
    assert "was measured in another way than scores (mask_threshold 0.4 instead of 0.5)" in text
    assert "have other pixels" not in text
    first, second = resolve_lineage(mini.scores, {}), resolve_lineage(other, {})
    stained = second.patches.store.read("identity")
    stained[:, 0] += 1
    take = second.patches.store.take
    second.patches.digest = "another"
    with mock.patch.object(
        second.patches.store, "take", lambda name, rows: stained[rows] if name == "identity" else take(name, rows)
    ):
        assert count_other_pixels(first, second) == len(first.rows)
    assert count_other_pixels(first, resolve_lineage(mini.scores, {})) == 0


def test_what_cannot_be_compared_is_refused(mini: Mini, tmp_path: Path) -> None:
    assert run("report", mini.scores, mini.scores, "-o", tmp_path / "r").code == 2
    shutil.copytree(mini.scores, mini.root / "twin.zarr")
    try:
        outcome = run("report", mini.scores, mini.root / "twin.zarr", "-o", tmp_path / "r", "--maps", mini.maps)
        assert outcome.code == 2
        assert "--maps" in outcome.err
        done("report", mini.scores, mini.root / "twin.zarr", "-o", tmp_path / "r")
        text = (tmp_path / "r/index.html").read_text()
        assert "The runs do not differ in any recorded setting." in text
        data = Store(tmp_path / "r/data.zarr")
        known = data.read("difference_difference")
        assert set(known[np.isfinite(known)].tolist()) <= {0.0}
    finally:
        shutil.rmtree(mini.root / "twin.zarr")


def score_classifier(mini: Mini, place: Path, source: Path, trained_on: Path) -> Path:
    """Train on one store, explain the test patches of another with gradcam, and score the maps."""
    done("train-cls", trained_on, "-o", place / "cls", "--epochs", 1, "--batch-size", 8)
    masks = place / "masks.zarr"
    done("masks", source, "--model", mini.seg, "-o", masks)
    done("explain", source, "--model", place / "cls", "-o", place / "maps.zarr", "--method", "gradcam")
    done("score", place / "maps.zarr", "--masks", masks, "-o", place / f"{place.name}.zarr")
    return place / f"{place.name}.zarr"


def test_runs_with_and_without_rotated_copies(mini: Mini, tmp_path: Path) -> None:
    plain = tmp_path / "plain.zarr"
    done("augment", mini.patches, "-o", plain, "--no-rotate")
    rotated = score_classifier(mini, tmp_path / "rotated", mini.balanced, mini.balanced)
    unrotated = score_classifier(mini, tmp_path / "unrotated", plain, plain)
    crossed = score_classifier(mini, tmp_path / "crossed", mini.balanced, plain)  # on the other store's test patches
    done("report", rotated, unrotated, crossed, "-o", tmp_path / "r", "--export", tmp_path / "paper")
    rows = list(csv.DictReader((tmp_path / "paper/tables/settings.csv").open()))
    listed = {(r["of"], r["setting"]): [r[k] for k in ("rotated", "unrotated", "crossed")] for r in rows}
    assert listed["patches", "rotate"] == ["True", "False", "True"]
    assert listed["classifier", "trained on.rotate"] == ["–", "–", "False"]
    runs = {p.stem: resolve_lineage(p, {}) for p in (rotated, unrotated, crossed)}
    ids = {name: set(r.column("patch_id").tolist()) for name, r in runs.items()}
    assert ids["rotated"] == ids["unrotated"] == ids["crossed"]  # every test patch is in all, and none is a copy
    assert not any("@" in i for i in ids["rotated"])
    text = (tmp_path / "r/index.html").read_text()
    groups = len(set(runs["rotated"].column("group").tolist()))
    for name in ("unrotated", "crossed"):
        question = f"Whether rotated copies in training matter ({name} and rotated) is not tested"
        assert f"{question} ({groups} groups; a test needs 10)." in text
    for name, first in (("unrotated", "rotated"), ("crossed", "rotated")):
        contrast = contrast_copies(runs, compare_runs(runs[first], runs[name], name))
        assert contrast is not None
        assert (contrast.with_copies, list(contrast.others), contrast.trained) == ("rotated", [], 0)
    swapped = {"unrotated": runs["unrotated"], "crossed": runs["crossed"]}
    assert contrast_copies(swapped, compare_runs(runs["unrotated"], runs["crossed"], "crossed")) is None


def compare_runs(first: Lineage, other: Lineage, name: str) -> RunPair:
    stores = [scores_store.read(r.scores.path, "corrected", Statistics.empty, r.rows) for r in (first, other)]
    return compare_pair(stores[0], stores[1], name, STATISTICS)


def test_patches_that_trained_a_classifier_are_counted(mini: Mini, tmp_path: Path) -> None:
    # by patch, the study's rule: a test patch can have a copy in the other store's training
    stores = {"turned": [], "plain": ["--no-rotate"]}
    runs = {}
    for name, words in stores.items():
        done("augment", mini.patches, "-o", tmp_path / f"{name}.zarr", "--split-by", "patch", *words)
        path = tmp_path / f"{name}.zarr"
        leaks = ["--allow-leakage"]
        place = tmp_path / name
        done("train-cls", path, "-o", place / "cls", "--epochs", 1, "--batch-size", 8, *leaks)
        done("masks", path, "--model", mini.seg, "-o", place / "masks.zarr")
        done("explain", path, "--model", place / "cls", "-o", place / "maps.zarr", "--method", "gradcam")
        done("score", place / "maps.zarr", "--masks", place / "masks.zarr", "-o", place / "scores.zarr")
        runs[name] = resolve_lineage(place / "scores.zarr", {})
    contrast = contrast_copies(runs, compare_runs(runs["turned"], runs["plain"], "plain"))
    tables = {}
    for name in stores:
        p = Patches(tmp_path / f"{name}.zarr")
        names = [str(i).split("@")[0] for i in p.patch_id]
        tables[name] = [{n for n, s in zip(names, p.split, strict=True) if s == k} for k in (1, 3)]
    (train, test), (other_train, other_test) = tables["turned"], tables["plain"]
    want = len((test & other_test) & (train | other_train))
    assert want > 0
    assert contrast is not None
    assert contrast.trained == want
