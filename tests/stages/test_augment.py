"""`augment` as users run it: rotated copies, and stores without classes; splits are in tests/split/."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from histoxai.store.patches import Patches
from tests.conftest import SEG, Mini, done


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
