"""`augment` as users run it: rotated copies, and stores without classes; splits are in tests/split/."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from histoxai.store.patches import Patches
from tests.conftest import SEG, Mini, done, run


def test_augment_turns_counter_clockwise_and_names_its_copies(mini: Mini) -> None:
    before, after = Patches(mini.patches), Patches(mini.balanced)
    parent, rotation = after.store.read("parent"), after.store.read("rotation")
    assert set(rotation) == {0, 1, 2, 3}
    for i in range(len(after)):
        original = before.images[int(parent[i])]
        assert np.array_equal(after.images[i], np.rot90(original, int(rotation[i])))
        suffix = f"@{90 * int(rotation[i])}" if rotation[i] else ""
        assert after.patch_id[i] == before.patch_id[parent[i]] + suffix
        assert after.label[i] == before.label[parent[i]]
    assert len(set(after.patch_id.tolist())) == len(after)
    for scan in set(after.group.tolist()):
        assert len(set(after.split[after.group == scan].tolist())) == 1


def test_a_store_with_masks_and_no_classes_is_split(mini: Mini, tmp_path: Path) -> None:
    done("augment", mini.nuclei, "-o", tmp_path / "b.zarr", "--fractions", "0.5,0.25,0.25")
    made, source = Patches(tmp_path / "b.zarr"), Patches(mini.nuclei)
    assert sorted(made.patch_id) == sorted(source.patch_id)  # as they are: none turned, none left out
    assert np.bincount(made.split, minlength=4)[0] == 0
    assert all(len(set(made.split[made.group == g])) == 1 for g in set(made.group))
    at = [source.patch_id.tolist().index(p) for p in made.patch_id]
    np.testing.assert_array_equal(made.read(range(len(made)), "targets"), source.read(at, "targets"))
    done("augment", mini.nuclei, "--preview", tmp_path / "p.png")
    assert set(made.split.tolist()) == {1, 2, 3}
    out = json.loads(done("train-seg", tmp_path / "b.zarr", "-o", tmp_path / "seg", *SEG[2:], "--epochs", 1, "--json"))
    assert out["split"] == "test"


def test_no_rotate_balances_without_copies(mini: Mini, tmp_path: Path) -> None:
    plain, rotated, source = tmp_path / "plain.zarr", Patches(mini.balanced), Patches(mini.patches)
    plan = json.loads(done("augment", mini.patches, "--plan", "--no-rotate", "--json"))
    assert "split by group, without rotated copies" in done("augment", mini.patches, "--plan", "--no-rotate")
    done("augment", mini.patches, "-o", plain, "--no-rotate")
    made = Patches(plain)
    assert not made.store.read("rotation").any()
    assert set(made.patch_id.tolist()) <= set(source.patch_id.tolist())
    # the fewest training patches of any class, all of them as ingested, are the size of every class
    train = {row["class"]: row["train"] for row in plan["table"]}
    originals = (rotated.split == 1) & (rotated.store.read("rotation") == 0)
    scans = set(rotated.group[rotated.split == 1].tolist())
    available = [int(((source.label == k) & np.isin(source.group, list(scans))).sum()) for k in range(3)]
    assert originals.any()
    assert set(train.values()) == {min(available)}
    assert [row["rotated"] for row in plan["table"]] == [row["patches"] for row in plan["table"]]
    assert [int(((made.label == k) & (made.split == 1)).sum()) for k in range(3)] == [min(available)] * 3
    # validation and test are those of the rotated store
    for split in (2, 3):
        assert sorted(made.patch_id[made.split == split]) == sorted(rotated.patch_id[rotated.split == split])
    assert made.store.header["settings"]["rotate"] is False
    assert "rotate" not in rotated.store.header["settings"]  # stores from before the option go on
    assert plan["rotate"] is False
    assert "--no-rotate" in made.store.header["run"]["command"]
    assert (
        "images 0" in done("augment", mini.patches, "-o", plain, "--no-rotate") or made.digest == Patches(plain).digest
    )
    refused = run("augment", mini.patches, "-o", plain)
    assert refused.code == 3
    assert "rotate" in refused.err


def test_no_rotate_by_patch_warns_of_scans_and_not_of_copies(mini: Mini) -> None:
    words = ["augment", mini.patches, "--plan", "--split-by", "patch", "--json"]
    rotated, plain = json.loads(done(*words)), json.loads(done(*words, "--no-rotate"))
    # 6 scans of 4, 5 and 6 patches: 24, 30 and 36, all at most 4 x 24, so all are rotated to at least 96
    assert [r["rotated"] for r in rotated["table"]] == [96, 120, 144]
    assert [[r[k] for k in ("train", "validation", "test")] for r in rotated["table"]] == [[48, 19, 29]] * 3
    assert [r["rotated"] for r in plain["table"]] == [24, 30, 36]
    assert [[r[k] for k in ("train", "validation", "test")] for r in plain["table"]] == [[12, 4, 8]] * 3
    assert rotated["notes"][0].startswith("rotated copies of one patch can be on both sides")
    assert plain["notes"][0].startswith("patches of one scan can be on both sides")
