"""Splitting: the study's own counts must give its numbers; groups must never leak."""

from __future__ import annotations

import numpy as np
import pytest

from histoxai.errors import InputRefused, UsageError
from histoxai.settings import Augment
from histoxai.store.split import balance_train, plan_by_group, plan_by_patch, rotated_classes, split_groups

STUDY = {"A": 45706, "N": 200135, "R1": 4388, "R2": 4709, "R3": 36172, "R4": 87171, "R5": 16907}
ROTATED = {"A": 45706, "N": 200135, "R1": 17552, "R2": 18836, "R3": 36172, "R4": 87171, "R5": 67628}


def test_the_studys_table_1() -> None:
    label = np.repeat(np.arange(7), list(STUDY.values()))
    plan = plan_by_patch(label, list(STUDY), (0.5, 0.2, 0.3), seed=0)
    for row in plan.table:
        name = str(row["class"])
        assert row == {
            "class": name,
            "patches": STUDY[name],
            "rotated": ROTATED[name],
            "train": 8776,
            "validation": 3510,
            "test": 5266,
        }
    assert len(plan.parent) == 7 * 17552
    assert len(set(zip(plan.parent.tolist(), plan.rotation.tolist(), strict=True))) == len(plan.parent)
    assert "rotated copies" in plan.notes[0]


def test_the_studys_leak_is_as_large_as_computed() -> None:
    # 87 % of R1's test patches have a rotated copy in training when the draw is over patches
    label = np.repeat(np.arange(7), list(STUDY.values()))
    plan = plan_by_patch(label, list(STUDY), (0.5, 0.2, 0.3), seed=0)
    mine = label[plan.parent] == 2
    train = set(plan.parent[mine & (plan.split == 1)].tolist())
    test = plan.parent[mine & (plan.split == 3)]
    assert np.mean([p in train for p in test]) == pytest.approx(0.875, abs=0.01)


def test_rotation_rule() -> None:
    assert rotated_classes(np.array([10, 40, 41, 12])).tolist() == [True, True, False, True]


def sample(groups: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    label, group = [], []
    for g in range(groups):
        for code in rng.choice(4, 2, replace=False):
            n = int(rng.integers(3, 30)) * (5 if code == 0 else 1)
            label += [code] * n
            group += [f"g{g}"] * n
    return np.array(label), np.array(group)


def test_groups_stay_whole_and_fractions_are_near() -> None:
    label, group = sample()
    split = split_groups(label, group, 4, (0.5, 0.2, 0.3), seed=0)
    for g in set(group):
        assert len(set(split[group == g])) == 1
    for code in range(4):
        share = [(split[label == code] == k).mean() for k in (1, 2, 3)]
        np.testing.assert_allclose(share, [0.5, 0.2, 0.3], atol=0.08)


def test_only_train_is_rotated_and_balanced() -> None:
    label, group = sample()
    plan = plan_by_group(label, group, list("abcd"), (0.5, 0.2, 0.3), seed=0)
    assert (plan.rotation[plan.split > 1] == 0).all()
    assert plan.rotation[plan.split == 1].any()
    assert len({int(row["train"]) for row in plan.table}) == 1
    assert set(group[plan.parent[plan.split == 1]]).isdisjoint(group[plan.parent[plan.split == 3]])
    held_out = sum(int(r["validation"]) + int(r["test"]) for r in plan.table)
    assert (plan.split > 1).sum() == held_out


def test_same_seed_same_plan_other_seed_other_plan() -> None:
    label, group = sample()
    first, again, other = (plan_by_group(label, group, list("abcd"), (0.5, 0.2, 0.3), seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.parent, again.parent)
    assert np.array_equal(first.split, again.split)
    assert not np.array_equal(first.parent, other.parent)


def test_it_says_where_groups_fall_short() -> None:
    label = np.array([0] * 30 + [1] * 30)
    group = np.array([f"g{i % 10}" for i in range(30)] + ["only"] * 30)
    plan = plan_by_group(label, group, ["many", "one"], (0.5, 0.2, 0.3), seed=0)
    assert any("class one: no patch in test" in n for n in plan.notes)
    assert not any("class many" in n for n in plan.notes)


def test_a_class_without_patches_is_refused() -> None:
    with pytest.raises(InputRefused, match="class 'b' has no patch"):
        plan_by_patch(np.zeros(5, int), ["a", "b"], (0.5, 0.2, 0.3), 0)
    with pytest.raises(InputRefused, match="class 'b' has no train patch"):
        balance_train(np.array([0, 1]), np.array([1, 3]), ["a", "b"], None, 0)


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0)])
def test_fractions_must_add_up(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="add up to 1"):
        Augment(fractions)
