"""The stages together: lineage, resuming, shards in any order, kills, refusals."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from histoxai.store.patches import Patches
from histoxai.store.shards import Store
from tests.conftest import CLASSES, FAST, SEG, Mini, array_files, done, run, without_seal, write_diagset

EXPLAIN = [*FAST, "--shard-size", "4"]


def explain(mini: Mini, output: Path, *more: object) -> list[object]:
    return ["explain", mini.balanced, "--model", mini.cls, "-o", output, *EXPLAIN, *more]


def test_a_second_run_of_everything_does_nothing(mini: Mini) -> None:
    before = {p: p.stat().st_mtime_ns for p in mini.root.rglob("*") if p.is_file()}
    done("ingest", mini.diagset, "-o", mini.patches, "--classes", ",".join(CLASSES), "--mpp", 0.25)
    done("augment", mini.patches, "-o", mini.balanced)
    done("train-cls", mini.balanced, "-o", mini.cls, "--epochs", 3, "--batch-size", 8)
    done("train-seg", mini.nuclei, "-o", mini.seg, *SEG)
    done("masks", mini.balanced, "--model", mini.seg, "-o", mini.masks)
    assert "ig 0, nt 0" in done(*explain(mini, mini.maps))
    done("score", mini.maps, "--masks", mini.masks, "-o", mini.scores)
    done("report", mini.scores, "-o", mini.report)
    assert {p: p.stat().st_mtime_ns for p in mini.root.rglob("*") if p.is_file()} == before


def test_shards_in_any_order_give_the_same_bytes(mini: Mini, tmp_path: Path) -> None:
    count = done(*explain(mini, tmp_path / "m", "--count-shards")).strip()
    last = int(count.split("-")[1])
    assert last >= 2
    assert done(*explain(mini, tmp_path / "m", "--missing")).strip() == count
    order = list(range(last + 1))
    random.Random(1).shuffle(order)
    for k in order[:-1]:
        done(*explain(mini, tmp_path / "m", "--shard", k))
    assert done(*explain(mini, tmp_path / "m", "--missing")).strip() == str(order[-1])
    refused = run("score", tmp_path / "m", "--masks", mini.masks, "-o", tmp_path / "s")
    assert refused.code == 4
    assert f"lacks shard {order[-1]}; run `histoxai" in refused.err
    assert f"--shard {order[-1]}`" in refused.err
    done(*explain(mini, tmp_path / "m", "--shard", order[-1]))
    assert done(*explain(mini, tmp_path / "m", "--missing")) == ""
    assert array_files(tmp_path / "m") == array_files(mini.maps)
    assert Store(tmp_path / "m").digest() == Store(mini.maps).digest()


def test_methods_can_be_added_one_by_one(mini: Mini, tmp_path: Path) -> None:
    for method in ("gradcam", "lime", "nt", "ig"):
        options = [o for o in EXPLAIN if not str(o).partition(".")[2] or str(o).startswith(f"{method}.")]
        options = [a for i, a in enumerate(options) if a != "-O" or (i + 1 < len(options) and "=" in options[i + 1])]
        common = ["explain", mini.balanced, "--model", mini.cls, "-o", tmp_path / "m"]
        done(*common, "--method", method, *options)
    assert array_files(tmp_path / "m") == array_files(mini.maps)


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes(mini: Mini, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "histoxai", *map(str, explain(mini, tmp_path / "m", "--quiet"))]
    rng = random.Random(0)
    kills = 0
    for _ in range(4):
        task = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        before = len(list((tmp_path / "m" / "_done").rglob("*.json")))
        while len(list((tmp_path / "m" / "_done").rglob("*.json"))) <= before and task.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        if task.poll() is None:
            task.send_signal(signal.SIGKILL)
            kills += 1
        task.wait()
    assert kills
    done(*explain(mini, tmp_path / "m"))
    assert array_files(tmp_path / "m") == array_files(mini.maps)


def test_two_processes_on_the_same_shards(mini: Mini, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "histoxai", *map(str, explain(mini, tmp_path / "m", "--quiet"))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    tasks = [subprocess.Popen([*command, "--threads", "2"], env=env, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [t.wait(120) for t in tasks] == [0, 0]
    assert array_files(tmp_path / "m") == array_files(mini.maps)


def test_per_class_takes_the_first_by_hash(mini: Mini, tmp_path: Path) -> None:
    done(
        *explain(mini, tmp_path / "m", "--per-class", 2, "--method", "gradcam")[:6],
        "--per-class",
        2,
        "--method",
        "gradcam",
    )
    store, patches = Store(tmp_path / "m"), Patches(mini.balanced)
    assert np.bincount(store.read("label")).tolist() == [2, 2, 2]
    rows = store.read("row")
    assert (np.diff(rows) > 0).all()
    assert patches.patch_id[rows].tolist() == store.read("patch_id").tolist()
    more = patches.rows("test", 3)
    assert set(rows.tolist()) < set(more.tolist())


def test_targets(mini: Mini, tmp_path: Path) -> None:
    common = ["explain", mini.balanced, "--model", mini.cls, "--method", "gradcam", "--per-class", 2]
    done(*common, "-o", tmp_path / "label", "--target", "label")
    done(*common, "-o", tmp_path / "class", "--target", "R1")
    label, one = Store(tmp_path / "label"), Store(tmp_path / "class")
    assert label.read("targets").tolist() == label.read("label").tolist()
    assert set(one.read("targets").tolist()) == {2}
    of_class = label.read("label") == 2
    same = (one.read("attributions/gradcam") == label.read("attributions/gradcam")).all(axis=(1, 2, 3))
    assert same[of_class].all()
    assert not same[~of_class].any()
    assert run(*common, "-o", tmp_path / "x", "--target", "R7").code == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--split", "validation"], "split = test, asked for validation"),
        (["--seed", "5"], "seed = 0, asked for 5"),
        (["-O", "ig.baseline=0.5"], "'ig' in "),
        (["--micro-batch", "8"], "micro_batch = 16, asked for 8"),
    ],
)
def test_an_output_with_other_settings_is_refused_by_name(mini: Mini, change: list[str], words: str) -> None:
    outcome = run(*explain(mini, mini.maps, *change))
    assert outcome.code == 3
    assert words in outcome.err
    assert "--force" in outcome.err


def test_wrong_inputs_are_refused(mini: Mini, tmp_path: Path) -> None:
    o = tmp_path / "o"
    cases = [
        (["augment", mini.maps, "-o", o], "is a maps store; expected a patches store"),
        (["augment", mini.balanced, "-o", o], "was augmented already"),
        (["augment", mini.nuclei, "-o", o, "--split-by", "patch"], "balances classes, and it has none"),
        (["augment", mini.patches, "-o", o, "--split-by", "source"], "gave no partitions"),
        (["explain", mini.balanced, "--model", mini.seg, "-o", o], "holds a segmenter; expected a classifier"),
        (["explain", mini.balanced, "--model", mini.patches, "-o", o], "not a run folder"),
        (["explain", mini.patches, "--model", mini.cls, "-o", o], "has no test patches"),
        (["masks", mini.balanced, "--model", mini.cls, "-o", o], "holds a classifier; expected a segmenter"),
        (["score", mini.masks, "--masks", mini.masks, "-o", o], "is a masks store; expected a maps store"),
        (["score", mini.maps, "--masks", mini.maps, "-o", o], "is a maps store; expected a masks store"),
        (["report", mini.maps, "-o", o], "expected a scores store"),
        (["info", mini.diagset], "has no zarr.json"),
    ]
    for command, words in cases:
        outcome = run(*command)
        assert (outcome.code, outcome.out) == (3, ""), command
        assert words in outcome.err
        assert not o.exists()


def test_a_run_folder_for_other_classes_or_sizes_is_refused(mini: Mini, tmp_path: Path) -> None:
    cls = shutil.copytree(mini.cls, tmp_path / "cls")
    facts = without_seal(cls / "run.json")
    for key, value, words in (
        ("classes", ["A", "N", "R5"], "trained for the classes A, N, R5"),
        ("size", [96, 96], "trained on patches of 96 x 96 px"),
    ):
        (cls / "run.json").write_text(json.dumps({**facts, key: value}))
        outcome = run("explain", mini.balanced, "--model", cls, "-o", tmp_path / "o")
        assert outcome.code == 3
        assert words in outcome.err


def test_maps_and_masks_of_different_patches_are_refused(mini: Mini, tmp_path: Path) -> None:
    done("augment", mini.patches, "-o", tmp_path / "b", "--seed", 9)
    done("masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "m")
    outcome = run("score", mini.maps, "--masks", tmp_path / "m", "-o", tmp_path / "s")
    assert outcome.code == 3
    assert "different patch stores" in outcome.err
    done("masks", mini.balanced, "--model", mini.seg, "-o", tmp_path / "v", "--split", "validation")
    outcome = run("score", mini.maps, "--masks", tmp_path / "v", "-o", tmp_path / "s")
    assert outcome.code == 4
    assert "run `histoxai masks" in outcome.err


def test_incomplete_patches_are_refused_with_the_command_that_fills_them(mini: Mini, tmp_path: Path) -> None:
    source = write_diagset(tmp_path / "d", scans=2)
    done("ingest", source, "-o", tmp_path / "p", "--classes", ",".join(CLASSES), "--shard-size", 8)
    (tmp_path / "p" / "images" / "c" / "1" / "0" / "0" / "0").unlink()
    outcome = run("augment", tmp_path / "p", "--plan")
    assert outcome.code == 4
    assert "'images' lacks shard 1; run `histoxai ingest" in outcome.err
    assert outcome.err.endswith("--shard 1`\n")
    done("ingest", source, "-o", tmp_path / "p", "--classes", ",".join(CLASSES), "--shard-size", 8)
    done("augment", tmp_path / "p", "--plan")


def test_nothing_temporary_stays(mini: Mini) -> None:
    assert not [p for p in mini.root.rglob("*") if p.name.endswith((".tmp", ".old"))]


def test_looking_never_changes_a_store(mini: Mini, tmp_path: Path) -> None:
    maps = shutil.copytree(mini.maps, tmp_path / "maps")
    before = {p: p.read_bytes() for p in maps.rglob("*") if p.is_file()}
    for look in ("--dry-run", "--missing", "--count-shards"):
        done(*explain(mini, maps, look, "--method", "ig,nt,lime,gradcam,more=ig"))
        done(*explain(mini, maps, look, "--force"))
    assert {p: p.read_bytes() for p in maps.rglob("*") if p.is_file()} == before
    assert run(*explain(mini, maps, "--dry-run", "--seed", 3)).code == 3


@pytest.mark.parametrize("verb", ["augment", "train-cls", "train-seg", "masks", "explain", "score", "report"])
def test_force_spares_what_is_not_ours_and_every_input(mini: Mini, tmp_path: Path, verb: str) -> None:
    commands: dict[str, list[object]] = {
        "augment": ["augment", mini.patches],
        "train-cls": ["train-cls", mini.balanced, "--epochs", 1],
        "train-seg": ["train-seg", mini.nuclei, "--epochs", 1],
        "masks": ["masks", mini.balanced, "--model", mini.seg],
        "explain": ["explain", mini.balanced, "--model", mini.cls],
        "score": ["score", mini.maps, "--masks", mini.masks],
        "report": ["report", mini.scores],
    }
    command = commands[verb]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "elsewhere").symlink_to(precious)
    other = shutil.copytree(mini.masks if verb != "masks" else mini.maps, tmp_path / "other")
    inputs = [p for p in command if isinstance(p, Path)]
    for output in (precious, tmp_path / "file", tmp_path / "elsewhere", other, *inputs, inputs[0] / "in", mini.root):
        outcome = run(*command, "-o", output, "--force")
        assert outcome.code == 3, output
        assert "--force" not in outcome.err
    assert (precious / "thesis.txt").read_text() == "years of work"
    assert json.loads(done("info", other, "--json"))["complete"]
    for path in inputs:
        assert json.loads(done("info", path, "--json"))["complete"]


def test_a_store_that_lost_its_records_is_not_complete(mini: Mini, tmp_path: Path) -> None:
    for lost in ("_done/masks", "_done/masks/item.json"):
        masks = shutil.copytree(mini.masks, tmp_path / lost.replace("/", "_"))
        (shutil.rmtree if (masks / lost).is_dir() else os.unlink)(masks / lost)
        assert json.loads(done("info", masks, "--json"))["complete"] is False
        assert run("score", mini.maps, "--masks", masks, "-o", tmp_path / "s").code == 4


def test_spoiled_metadata_is_refused(mini: Mini, tmp_path: Path) -> None:
    store = shutil.copytree(mini.masks, tmp_path / "store")
    meta = json.loads((store / "zarr.json").read_text())
    for broken in ({}, [], {"schema": "masks/1"}, {**meta["attributes"]["histoxai"], "schema": 3}):
        text = json.dumps({**meta, "attributes": {"histoxai": broken}})
        (store / "zarr.json").write_text(text)
        for command in (["info", store], ["score", mini.maps, "--masks", store, "-o", tmp_path / "s"]):
            assert run(*command).code == 3, broken
    (store / "zarr.json").write_text("{")
    assert run("info", store).code == 3
    cls = shutil.copytree(mini.cls, tmp_path / "cls")
    facts = without_seal(cls / "run.json")
    for wrong in ([], {"kind": 3}, {**facts, "size": "64"}, {**facts, "weights": None}):
        (cls / "run.json").write_text(json.dumps(wrong))
        for command in (["info", cls], ["explain", mini.balanced, "--model", cls, "-o", tmp_path / "o"]):
            assert run(*command).code == 3, wrong
    records = shutil.copytree(mini.maps, tmp_path / "maps")
    (records / "_done" / "ig" / "0.json").write_text("{}")
    assert json.loads(done("info", records, "--json"))["items"]["ig"]["missing"] == "0"


def test_explain_warns_of_patches_that_were_trained_on(mini: Mini, tmp_path: Path) -> None:
    done("augment", mini.patches, "-o", tmp_path / "b", "--seed", 9)
    outcome = run("explain", tmp_path / "b", "--model", mini.cls, "-o", tmp_path / "m", "--dry-run")
    assert outcome.code == 0
    assert "may have been trained on" in outcome.err


def test_scores_outlive_a_method_added_later(mini: Mini, tmp_path: Path) -> None:
    maps = shutil.copytree(mini.maps, tmp_path / "maps")
    done("score", maps, "--masks", mini.masks, "-o", tmp_path / "s")
    added = ["--method", "ig2=ig", "-O", "ig2.steps=3", "--shard-size", 4]
    done("explain", mini.balanced, "--model", mini.cls, "-o", maps, *added)
    places = ["--patches", mini.balanced, "--model", mini.cls]
    done("report", tmp_path / "s", "-o", tmp_path / "r", *places)


def test_scores_follow_from_the_stored_maps_and_masks(mini: Mini) -> None:
    scores, maps, masks = Store(mini.scores), Store(mini.maps), Store(mini.masks)
    axes = scores.header["axes"]
    assert axes["method"] == ["ig", "nt", "lime", "gradcam"]
    place = {p: i for i, p in enumerate(masks.read("patch_id").tolist())}
    values, counts = scores.read("values"), scores.read("counts")
    for n, patch_id in enumerate(maps.read("patch_id").tolist()):
        raw = np.abs(maps.read("attributions/ig", n, n + 1)[0].astype(float))
        low, high = raw.min((1, 2), keepdims=True), raw.max((1, 2), keepdims=True)
        plane = ((raw - low) / (high - low)).sum(0)
        found = (plane - plane.min()) / (plane.max() - plane.min()) > 0.3
        truth = masks.read("probability", place[patch_id], place[patch_id] + 1)[0] > 0.5
        for j in range(2):
            both, either = (found & truth[j]).sum(), (found | truth[j]).sum()
            want = both / either if either else np.nan
            got = values[n, 0, j, axes["profile"].index("corrected"), axes["metric"].index("iou")]
            np.testing.assert_allclose(got, want, atol=1e-9)
            assert counts[n, 0, j].tolist() == [
                both,
                (found & ~truth[j]).sum(),
                (~found & truth[j]).sum(),
                (~(found | truth[j])).sum(),
            ]
