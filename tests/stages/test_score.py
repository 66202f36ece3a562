"""`score` as users run it: what is stored, printed and exported, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from pyarrow import parquet
from sklearn.metrics import average_precision_score, roc_auc_score

from histoxai.core import registry
from histoxai.core.progress import Silent
from histoxai.explain.maps_store import stored_methods
from histoxai.explain.methods.center import Center
from histoxai.explain.methods.edges import Edges
from histoxai.score import export, scores_store
from histoxai.score.measures.base import DEGENERATE, Measure, Pair
from histoxai.score.patch_scores import STUDY as METRICS
from histoxai.score.profiles.base import Profile
from histoxai.score.summary.scores import measures_of
from histoxai.settings import Statistics
from histoxai.stages import score as stage
from histoxai.store.patches import Patches
from histoxai.store.sealing import seal_attributes
from histoxai.store.shards import Store
from tests.conftest import CLASSES, ROOT, SIZE, Mini, array_files, done, run, write_diagset

SCHEMA = json.loads((ROOT / "docs" / "score.schema.json").read_text())
FEW = ["--repetitions", 200]
KNOWN = measures_of("corrected")
ALL, MEASURES = tuple(KNOWN), tuple(name for name in KNOWN if name not in METRICS)
FREE = tuple(name for name in MEASURES if not KNOWN[name].variant_of)


def score(mini: Mini, output: Path, *more: object) -> list[object]:
    return ["score", mini.maps, "--masks", mini.masks, "-o", output, *FEW, *more]


@pytest.fixture(scope="module")
def summary(mini: Mini) -> dict[str, Any]:
    return json.loads(done(*score(mini, mini.scores, "--json")))


@pytest.fixture
def planted(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A maps store whose `center` is the tumor mask itself and whose `edges` is its opposite."""
    masks, patches = Store(mini.masks), Patches(mini.balanced)
    images = patches.read(masks.read("row"))
    truth = {x.tobytes(): p[0] > 0.5 for x, p in zip(images, masks.read("probability"), strict=True)}

    def plane(image: np.ndarray) -> np.ndarray:
        return truth[(image * 255).round().astype(np.uint8).tobytes()]

    monkeypatch.setattr(Center, "plane", lambda self, image, seed: plane(image))
    monkeypatch.setattr(Edges, "plane", lambda self, image, seed: ~plane(image))
    done("explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m", "--method", "center,edges,random")
    return tmp_path / "m"


def test_json_is_what_its_schema_says(mini: Mini, summary: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(summary, SCHEMA)
    thesis = json.loads(done(*score(mini, mini.scores, "--json", "--profile", "thesis")))
    jsonschema.validate(thesis, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(summary | {"more": 1}, SCHEMA)
    assert {r["metric"] for r in summary["rows"]} == set(ALL)
    assert all(r["chance"] is not None for r in thesis["rows"] if r["n"])


def test_stored_measures_are_those_of_the_libraries(mini: Mini) -> None:
    """From the stored maps and masks by scikit-learn, for every method, patch and mask."""
    scores, maps, masks = Store(mini.scores), Store(mini.maps), Store(mini.masks)
    place = {p: i for i, p in enumerate(masks.read("patch_id").tolist())}
    rows = np.array([place[p] for p in maps.read("patch_id").tolist()])
    probability = masks.take("probability", rows)
    measures, flags = scores.read("measures"), scores.read("flags")
    names = {m: k for k, m in enumerate(MEASURES)}
    seen = 0
    for j, method in enumerate(stored_methods(maps)):
        raw = method.take(maps, np.arange(len(rows)))
        for n in range(len(rows)):
            relevance = method.relevance(raw, n, probability.shape[2:], "own").ravel()
            for k, truth in enumerate(probability[n].reshape(2, -1) > 0.5):
                got = measures[n, j, k]
                if not truth.any():
                    assert flags[n, j, k] & DEGENERATE["empty_mask"]
                    assert np.isnan(got[: len(FREE)]).all()
                    continue
                seen += 1
                assert got[names["auroc"]] == pytest.approx(roc_auc_score(truth, relevance), abs=1e-9)
                expected = average_precision_score(truth, relevance)
                assert got[names["average_precision"]] == pytest.approx(expected, abs=1e-9)
                whole = relevance.sum(dtype=np.float64)
                inside = relevance[truth].sum(dtype=np.float64) / whole if whole else np.nan
                assert got[names["mass_accuracy"]] == pytest.approx(inside, abs=1e-9, nan_ok=True)
    assert seen > 20


def test_thresholds_of_maps_and_masks_meet_at_the_fixed_ones(summary: dict[str, Any]) -> None:
    """Means from histograms are those of the rows where both cut at the same place: a map at 0.3, a mask at 0.5."""
    rows = {
        (r["method"], r["mask"], r["metric"]): r["mean"]
        for r in summary["rows"]
        if r["class"] == "all" and r["case"] == "all"
    }
    seen = 0
    for curve in summary["map_thresholds"]:
        at = curve["threshold"].index(0.3)
        for metric in ("iou", "precision", "recall", "f1", "phi", "pixel_accuracy"):
            expected = rows[curve["method"], curve["mask"], metric]
            assert curve[metric][at] == (None if expected is None else pytest.approx(expected, abs=1e-12))
            seen += expected is not None
        assert curve["recall"][100] in (0, None)
    for row in summary["mask_thresholds"]:
        if row["mask_threshold"] == 0.5:
            expected = rows[row["method"], row["mask"], row["metric"]]
            assert row["mean"] == (None if expected is None else pytest.approx(expected, abs=1e-12))
    assert seen > 20


def test_a_perfect_map_is_perfect_and_a_random_one_chance(mini: Mini, tmp_path: Path, planted: Path) -> None:
    got = json.loads(
        done("score", planted, "--masks", mini.masks, "-o", tmp_path / "s", "--json", "--top-k", 0.001, *FEW)
    )
    rows = {
        (r["method"], r["metric"]): r
        for r in got["rows"]
        if r["mask"] == "tumor" and r["class"] == "all" and r["case"] == "all"
    }
    for metric in ALL:
        perfect, opposite = rows["center", metric], rows["edges", metric]
        if metric != "spearman":
            assert perfect["mean"] == pytest.approx(1), metric
            assert opposite["mean"] is None or opposite["mean"] < opposite["chance"], metric
        lucky = rows["random", metric]
        assert lucky["mean"] == pytest.approx(lucky["chance"], abs=0.06), metric


def test_any_number_of_workers_and_shards_writes_the_same_bytes(mini: Mini, tmp_path: Path) -> None:
    done(*score(mini, tmp_path / "a", "--shard-size", 4, "--threads", 1))
    done(*score(mini, tmp_path / "b", "--shard-size", 4, "--workers", 2, "--threads", 2))
    for shard in ("2-", "0-1")[::-1]:
        count = done(*score(mini, tmp_path / "c", "--shard-size", 4, "--count-shards")).strip()
        last = count.split("-")[1]
        text = done(*score(mini, tmp_path / "c", "--shard-size", 4, "--shard", f"2-{last}" if shard == "2-" else shard))
        assert "shards done now: scores" in text
    assert done(*score(mini, tmp_path / "c", "--shard-size", 4, "--missing")) == ""
    assert array_files(tmp_path / "a") == array_files(tmp_path / "b") == array_files(tmp_path / "c")


def test_tissue_is_counted_where_the_patches_are(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = np.zeros((SIZE, SIZE), bool)
    half[:, : SIZE // 2] = True
    monkeypatch.setattr(stage, "find_glass", lambda image: half)
    done(*score(mini, tmp_path / "s"))
    counts = Store(tmp_path / "s").read("tissue")
    maps = Store(mini.maps)
    for j, method in enumerate(stored_methods(maps)):
        for n in range(len(counts)):
            found = method.plane(method.take(maps, np.array([n])), 0, (SIZE, SIZE)) > 0.3
            tp, fp = int((found & ~half).sum()), int((found & half).sum())
            assert counts[n, j].tolist() == [tp, fp, half.sum() - tp, half.sum() - fp]
    # of a moved maps store: not measured, and said; the patches can be named
    for name in ("maps", "masks"):
        shutil.copytree(getattr(mini, name), tmp_path / f"{name}.zarr")
    moved = ["score", tmp_path / "maps.zarr", "--masks", tmp_path / "masks.zarr", *FEW, "-o"]
    outcome = run(*moved, tmp_path / "t", "--json")
    assert "whether maps mark tissue is not measured" in outcome.err.replace("\n", " ")
    assert not Store(tmp_path / "t").has("tissue")
    words = next(r["words"] for r in json.loads(outcome.out)["conclusions"] if r["name"] == "gradcam_off_tissue")
    assert "the store does not say where tissue is" in words
    done(*moved, tmp_path / "t", "--patches", mini.balanced)  # it stays as it was begun
    assert not Store(tmp_path / "t").has("tissue")
    done(*moved, tmp_path / "t", "--patches", mini.balanced, "--force")
    np.testing.assert_array_equal(Store(tmp_path / "t").read("tissue"), counts)
    assert run(*moved, tmp_path / "u", "--patches", mini.patches).code == 3
    assert not (tmp_path / "u").exists()


def test_exports_hold_the_numbers_of_json(mini: Mini, tmp_path: Path, summary: dict[str, Any]) -> None:
    files = [tmp_path / n for n in ("means.csv", "means.parquet", "patches.csv", "patches.parquet")]
    done(*score(mini, mini.scores), *[w for f in files for w in ("--export", f)])
    means, arrow = list(csv.DictReader(files[0].open(newline=""))), parquet.read_table(files[1]).to_pylist()
    assert len(means) == len(arrow) == len(summary["rows"])
    for row, one, two in zip(summary["rows"], means, arrow, strict=True):
        assert (one["method"], one["metric"], one["class"]) == (row["method"], row["metric"], row["class"])
        assert (float(one["mean"]) if one["mean"] else None) == row["mean"] == two["mean"]
        assert two["above_chance.mean"] == row["above_chance"]["mean"]
        assert two["degenerate.empty_mask"] == row["degenerate"]["empty_mask"]
    lines = [json.loads(x) for x in done(*score(mini, mini.scores, "--jsonl")).splitlines()]
    patches, arrow = list(csv.DictReader(files[2].open(newline=""))), parquet.read_table(files[3]).to_pylist()
    assert len(lines) == len(patches) == len(arrow)
    for line, one, two in zip(lines, patches, arrow, strict=True):
        assert (one["patch_id"], one["metric"]) == (line["patch_id"], line["metric"])
        assert (float(one["mean"]) if one["mean"] else None) == line["mean"] == two["mean"]


def test_parquet_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_BATCH", 3)
    late = [(None, None) if i < 5 else (0.5, "few") for i in range(8)]  # nothing in the first batch tells the type
    rows = [{"a": i, "b": {"c": number}, "withheld": words} for i, (number, words) in enumerate(late)]
    export.write_table(tmp_path / "t.parquet", iter(rows))
    expected = [{"a": i, "b.c": number, "withheld": words} for i, (number, words) in enumerate(late)]
    assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == expected


def test_conventions_for_an_empty_mask(mini: Mini, summary: dict[str, Any]) -> None:
    for empty, value in (("zero", 0.0), ("one", 1.0)):
        other = json.loads(done(*score(mini, mini.scores, "--json", "--empty", empty)))
        moved = 0
        for before, after in zip(summary["rows"], other["rows"], strict=True):
            if not before["undefined"] or not KNOWN[before["metric"]].convention:
                continue
            moved += 1
            total = before["n"] + before["undefined"]
            assert (after["n"], after["undefined"]) == (total, 0)
            expected = (before["n"] * (before["mean"] or 0) + before["undefined"] * value) / total
            assert after["mean"] == pytest.approx(expected)
        assert moved


def test_tables_for_people(mini: Mini) -> None:
    text = done(*score(mini, mini.scores))
    assert "tumor mask, corrected profile: means" in text
    assert "auroc, all classes, 95% intervals over" in text
    assert "the study's conclusions on these patches" in text
    assert "GradCAM agrees best with the tumor mask" in text
    assert "iou, all classes" in done(*score(mini, mini.scores, "--profile", "thesis"))


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--primary", "nonsense"], 2, "the corrected profile has iou, precision"),
        (["--profile", "thesis", "--primary", "auroc"], 2, "--primary auroc: the thesis profile has iou"),
        (["--cancer", "R9"], 2, "--cancer R9: the classes are A, N, R1"),
        (["--empty", "maybe"], 2, "'maybe' is not one of exclude, zero, one"),
        (["--sign", "minus"], 2, "'minus' is not one of own, positive, absolute"),
        (["--repetitions", "5"], 2, "must be at least 100"),
        (["--export", "table.xlsx"], 2, "a name that ends in .csv or .parquet"),
        (["--export", "/no/such/place.csv"], 3, "/no/such: no such folder"),
        (["--jsonl", "--export", "means.csv"], 2, "means are not made with --jsonl"),
        (["--shard", "0", "--export", "means.csv"], 2, "tables are of all shards"),
        (["--sign", "positive"], 3, "sign = own, asked for positive"),
        (["--tolerance", "3"], 3, "tolerance = 0.0, asked for 3.0"),
    ],
)
def test_what_is_refused(mini: Mini, more: list[object], code: int, words: str) -> None:
    before = array_files(mini.scores)
    outcome = run(*score(mini, mini.scores, *more))
    assert outcome.code == code, outcome.err
    assert words in outcome.err
    assert array_files(mini.scores) == before


def test_tables_that_cannot_be_written(mini: Mini, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path, words in (
        (tmp_path / "folder.csv", "is a folder; name a file"),
        (mini.scores / "x.csv", "overlaps the input"),
    ):
        outcome = run(*score(mini, mini.scores, "--export", path))
        assert outcome.code == 3
        assert words in outcome.err


def test_nothing_is_done_before_all_is_known_to_be_possible(mini: Mini, tmp_path: Path) -> None:
    for more in (["--cancer", "nope"], ["--dry-run", "--cancer", "nope"], ["--jsonl", "--export", "means.csv"]):
        assert run(*score(mini, tmp_path / "s", *more)).code == 2
        assert not (tmp_path / "s").exists()


def test_a_store_of_the_first_schema_is_made_again_with_force(mini: Mini, tmp_path: Path) -> None:
    done(*score(mini, tmp_path / "s"))
    meta = json.loads((tmp_path / "s/zarr.json").read_text())
    attributes = meta["attributes"]
    old = {k: v for k, v in attributes.pop("histoxai").items() if k != "checksum"} | {"schema": "scores/1"}
    meta["attributes"] = seal_attributes(old, attributes)
    (tmp_path / "s/zarr.json").write_text(json.dumps(meta))
    refused = run(*score(mini, tmp_path / "s"))
    assert refused.code == 3
    assert "schema scores/1, this histoxai makes scores/3; --force to redo" in refused.err
    report = run("report", tmp_path / "s", "-o", tmp_path / "r", "--maps", mini.maps, "--masks", mini.masks)
    assert report.code == 3
    assert "schema scores/1 is of an older histoxai, and this one reads scores/3; make it again" in report.err
    done(*score(mini, tmp_path / "s", "--force"))
    assert Store(tmp_path / "s").schema == "scores/3"


def test_measures_of_counts_alone(mini: Mini, tmp_path: Path, summary: dict[str, Any]) -> None:
    counted = [m for m in METRICS if m != "spearman"]
    for more in ([], ["--empty", "one"]):
        few = json.loads(done(*score(mini, tmp_path / "s", "--measures", "counts", "--json", *more)))
        jsonschema.validate(few, SCHEMA)
        assert few["statistics"]["primary"] == "iou"
        assert {r["metric"] for r in few["rows"]} == set(counted)
        if not more:
            kept = [r for r in summary["rows"] if r["metric"] in counted]
            for row in (*few["rows"], *kept):
                row["above_chance"].pop("p_holm")  # of another family
            assert few["rows"] == kept
            assert any(r["degenerate"]["empty_mask"] for r in few["rows"])
    refused = run(*score(mini, tmp_path / "x", "--measures", "counts", "--primary", "auroc"))
    assert refused.code == 2
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def many(mini: Mini, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Maps and masks of 24 scans, enough for intervals; two null models, one of them by random weights."""
    root = tmp_path_factory.mktemp("many")
    write_diagset(root / "d", scans=24, per_class=1)
    done("ingest", root / "d", "-o", root / "p", "--classes", ",".join(CLASSES), "--mpp", 0.25)
    done("masks", root / "p", "--model", mini.seg, "-o", root / "masks", "--split", "all")
    methods = ["--method", "ig,gradcam,hematoxylin,null=gradcam", "--random-weights", "null", "-O", "ig.steps=4"]
    done("explain", root / "p", "--model", mini.cls, "-o", root / "maps", "--split", "all", *methods)
    return root / "maps", root / "masks"


def test_intervals_and_tests_end_to_end(many: tuple[Path, Path], tmp_path: Path) -> None:
    maps, masks = many
    command = ["score", maps, "--masks", masks, "-o", tmp_path / "s"]
    got = json.loads(done(*command, "--json", "--export", tmp_path / "means.parquet"))
    jsonschema.validate(got, SCHEMA)
    assert got["statistics"]["groups"] == 24
    assert got["methods"]["null"] == {"method": "gradcam", "null": True}
    rows = {(r["method"], r["mask"], r["class"], r["case"], r["metric"]): r for r in got["rows"]}
    ig = rows["ig", "tumor", "all", "all", "auroc"]
    store = Store(tmp_path / "s")
    values = store.read("measures")[:, 0, 0, MEASURES.index("auroc")]
    assert ig["mean"] == pytest.approx(np.nanmean(values))
    assert ig["groups"] == 24
    assert 0 <= ig["low"] < ig["mean"] < ig["high"] <= 1
    assert ig["above_chance"]["p"] <= ig["above_chance"]["p_holm"]
    lonely = rows["ig", "tumor", "all", "1", "auroc"]
    assert lonely["above_chance"]["p_holm"] is None
    assert (lonely["withheld"] is None) == (lonely["low"] is not None)
    stained = next(r for r in got["best_null"] if r["method"] == "ig" and r["mask"] == "tumor")
    assert stained["null"] == "hematoxylin"  # dark discs are the tumor: the stain finds them, this network does not
    assert stained["difference"] < 0
    assert stained["p_holm"] < 0.05
    ranks = next(r for r in got["friedman"] if r["mask"] == "tumor")
    assert min(ranks["ranks"], key=ranks["ranks"].get) == "hematoxylin"
    assert got["friedman"][1]["withheld"].startswith("0 groups have a patch")  # the other mask is empty
    texts = {r["name"]: r["words"] for r in got["conclusions"]}
    assert texts["lime_second"] == "Not testable: the store has no lime."
    table = parquet.read_table(tmp_path / "means.parquet").to_pylist()
    assert [r["low"] for r in table] == [r["low"] for r in got["rows"]]
    text = done(*command)
    assert "null (null)" in text
    assert "hematoxylin (null)" in text


def test_a_map_that_is_nearly_constant_or_not_a_number(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plane(self: Center, image: np.ndarray, seed: int) -> np.ndarray:
        made = np.full(image.shape[:2], 0.5)
        made[:5] += 1e-6
        return made if seed % 2 else np.full(image.shape[:2], np.nan)

    monkeypatch.setattr(Center, "plane", plane)
    done("explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m", "--method", "center")
    got = json.loads(done("score", tmp_path / "m", "--masks", mini.masks, "-o", tmp_path / "s", "--json", *FEW))
    maps = Store(tmp_path / "m").read("attributions/center")
    lost = int(np.isnan(maps).any(axis=(1, 2, 3)).sum())
    assert 0 < lost < len(maps)
    row = next(r for r in got["rows"] if r["metric"] == "pixel_accuracy" and r["class"] == r["case"] == "all")
    assert (row["undefined"], row["degenerate"]["not_finite_map"]) == (lost, lost)
    for other in got["mask_thresholds"]:
        assert other["n"] <= len(maps) - lost


def test_signs_differ_where_a_map_has_both(mini: Mini, tmp_path: Path) -> None:
    means = {}
    for sign in ("positive", "absolute"):
        got = json.loads(done(*score(mini, tmp_path / sign, "--sign", sign, "--json")))
        means[sign] = {
            r["method"]: r["mean"]
            for r in got["rows"]
            if (r["metric"], r["mask"], r["class"], r["case"]) == ("auroc", "tumor", "all", "all")
        }
    assert means["positive"]["ig"] != means["absolute"]["ig"]
    assert means["positive"]["nt"] == means["absolute"]["nt"]  # squares


# ---- a measure and a profile from outside


@dataclass(frozen=True, kw_only=True)
class Depth(Measure):
    """Mean of the mask's probability over the pixels of the map above its threshold."""

    def value(self, pair: Pair) -> float:
        return float(pair.mask.probability[pair.map.found].mean()) if pair.map.found.any() else float("nan")

    def chance(self, pair: Pair) -> float:
        return float(pair.mask.probability.mean())


DEPTH = Depth(
    name="depth",
    label="mean probability",
    subject="the plane",
    description="mean probability of the mask under the map",
    source="A measure of this test.",
)


class Inverted(Profile):
    """Maps turned upside down, with two of the registered measures and one of its own."""

    @classmethod
    def measures(cls) -> list[Measure]:
        return [*(measures_of("corrected")[name] for name in ("recall", "auroc")), replace(DEPTH, name="own_depth")]

    def render(self, plane: Callable[[float], np.ndarray]) -> np.ndarray:
        return 1 - plane(0.0)


def means_over_all(path: Path, profile: str) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Mean and chance by method, mask and measure, as `score --json` has them."""
    summary = scores_store.summary(path, profile, Statistics(repetitions=100), Silent())
    rows = [r for r in summary["rows"] if r["class"] == r["case"] == "all"]
    return {(r["method"], r["mask"], r["metric"]): (r["mean"], r["chance"]) for r in rows}


@pytest.mark.slow
def test_a_further_profile_and_a_further_measure_need_no_other_change(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.ENTRIES, "measure", registry.ENTRIES["measure"] | {"depth": f"{__name__}:DEPTH"})
    monkeypatch.setitem(registry.ENTRIES, "profile", registry.ENTRIES["profile"] | {"inverted": f"{__name__}:Inverted"})
    text = done(*score(mini, tmp_path / "s", "--profile", "inverted"))
    assert "inverted profile: means" in text
    maps, masks = Store(mini.maps), Store(mini.masks)
    probability = masks.take("probability", np.searchsorted(masks.read("patch_id"), maps.read("patch_id")))
    assert masks.read("patch_id").tolist() == sorted(masks.read("patch_id").tolist())
    got = {profile: means_over_all(tmp_path / "s", profile) for profile in ("corrected", "thesis", "inverted")}
    assert {metric for _, _, metric in got["corrected"]} == {*ALL, "depth"}
    assert {metric for _, _, metric in got["inverted"]} == {"recall", "auroc", "own_depth"}
    for method in stored_methods(maps):
        raw = method.take(maps, np.arange(len(probability)))
        planes = [method.plane(raw, n, probability.shape[2:]) for n in range(len(probability))]
        for k, mask in enumerate(("tumor", "non_tumor")):
            chosen = [(plane, p[k].astype(np.float64)) for plane, p in zip(planes, probability, strict=True)]
            for profile, metric, cut in (("corrected", "depth", lambda x: x > 0.3), ("inverted", "own_depth", below)):
                pairs = [(cut(plane), p) for plane, p in chosen if cut(plane).any()]
                expected = [np.mean([p[found].mean() for found, p in pairs]), np.mean([p.mean() for _, p in pairs])]
                assert got[profile][method.name, mask, metric] == pytest.approx(expected)
            shares = [
                ((below(plane) & (p > 0.5)).sum() / (p > 0.5).sum(), below(plane).mean())
                for plane, p in chosen
                if (p > 0.5).any()
            ]
            expected = np.mean(shares, axis=0) if shares else [None, None]
            assert got["inverted"][method.name, mask, "recall"] == pytest.approx(expected)
    before = {profile: means_over_all(mini.scores, profile) for profile in ("corrected", "thesis")}
    for profile, means in before.items():
        assert means == {key: value for key, value in got[profile].items() if key[2] != "depth"}
    outcome = run(*score(mini, mini.scores, "--profile", "inverted"))
    assert outcome.code == 3
    done("report", tmp_path / "s", "-o", tmp_path / "r", "--maps", mini.maps, "--masks", mini.masks, "--examples", 2)
    assert "mean probability" in (tmp_path / "r/index.html").read_text()


def test_tasks_with_other_profiles_do_not_share_a_store(
    mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(*score(mini, tmp_path / "s", "--shard-size", 4, "--shard", 0))
    monkeypatch.setitem(registry.ENTRIES, "profile", registry.ENTRIES["profile"] | {"inverted": f"{__name__}:Inverted"})
    outcome = run(*score(mini, tmp_path / "s", "--shard-size", 4, "--shard", 1))
    assert outcome.code == 3
    assert "profiles" in outcome.err


def below(plane: np.ndarray) -> np.ndarray:
    return 1 - plane > 0.3
