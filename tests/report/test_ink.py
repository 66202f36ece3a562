"""Ink is found by its colour, and maps that lie on it are named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from histoxai.report.sections import ink

SIZE = 32
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # hematoxylin and eosin, Ruifrok and Johnston 2001


def patch(marked: bool, density: tuple[float, float, float] = (1.5, 0.3, 0.8)) -> np.ndarray:
    """Stained tissue of every strength; where marked, 64 pixels of ink in a corner."""
    strengths = np.random.default_rng(0).uniform(0, 1.5, (SIZE, SIZE, 2))
    depth = strengths @ STAINS
    if marked:
        depth[:8, :8] = density
    return np.rint(255 * np.exp(-depth)).astype(np.uint8)


def corner() -> np.ndarray:
    plane = np.zeros((SIZE, SIZE), bool)
    plane[:8, :8] = True
    return plane


def test_green_and_blue_ink_is_found_and_stains_are_not() -> None:
    assert not ink.find_ink(patch(False)).any()
    for density in ((1.5, 0.3, 0.8), (1.3, 0.75, 0.25)):
        assert np.array_equal(ink.find_ink(patch(True, density)), corner())
    black = ink.find_ink(patch(True, (1.2, 1.15, 1.0)))
    assert not black.any()  # as documented


def test_the_strokes_of_a_hatched_mark_are_one_mark() -> None:
    image = patch(False)
    image[:9, :9] = 235  # glass between strokes of two pixels
    for row in (0, 1, 4, 5, 7, 8):
        image[row, :9] = (30, 100, 220)
    expected = np.zeros((SIZE, SIZE), bool)
    expected[:9, :9] = True
    assert np.array_equal(ink.find_ink(image), expected)


def test_specks_are_no_ink() -> None:
    image = patch(False)
    image[5, 5] = image[20, 9] = (20, 180, 90)
    assert not ink.find_ink(image).any()


def inputs(on_ink: dict[str, float], inked: int = 12) -> Any:
    """Two classes of 14 patches, one per group; the first `inked` of class b have ink.

    on_ink: the share of each method's evidence that lies in the corner, give or take a hundredth by patch.
    """
    label = np.repeat([0, 1], 14)
    images = [patch(14 <= i < 14 + inked) for i in range(28)]

    def relevance_maps(method: str, positions: list[int]) -> list[np.ndarray]:
        maps = []
        for i in positions:
            share = on_ink[method] + 0.01 * (-1) ** i
            maps.append(np.where(corner(), share / 64, (1 - share) / (SIZE**2 - 64)).astype(np.float32))
        return maps

    columns = {"group": np.array([f"s{i}" for i in range(28)]), "prediction": np.where(np.arange(28) < 26, label, 0)}
    lineage = SimpleNamespace(
        images=lambda positions: [images[i] for i in positions],
        relevance_maps=relevance_maps,
        column=columns.__getitem__,
        method_names=list(on_ink),
        patches=SimpleNamespace(classes=["a", "b"]),
    )
    statistics = {"repetitions": 500, "seed": 0, "level": 0.95}
    methods = {name: {"null": name == "center"} for name in on_ink}
    summary = {"statistics": statistics, "methods": methods}
    return SimpleNamespace(lineage=lineage, label=label, present_classes=[0, 1], summary=summary)


def test_a_method_whose_maps_lie_on_ink_is_named() -> None:
    area = 64 / SIZE**2
    found = ink.ink_findings(inputs({"ig": 0.5, "gradcam": area, "center": 0.9}))
    assert found is not None
    rows = {r["method"]: r for r in found["rows"]}
    assert set(rows) == {"ig", "gradcam"}  # null models do not read the network
    assert rows["ig"]["class"] == "b"
    assert (rows["ig"]["n"], rows["ig"]["groups"]) == (12, 12)
    assert rows["ig"]["share"] == pytest.approx(0.5)
    assert rows["ig"]["area"] == pytest.approx(area)
    assert rows["ig"]["low"] == pytest.approx(0.5 - area, abs=0.01)
    assert rows["ig"]["p_holm"] < 0.05 < rows["gradcam"]["p_holm"]
    [sentence] = found["sentences"]
    assert sentence.startswith(
        "Ink is on 12 of 14 patches of b and on 0 of 14 of other classes. Of those of b with ink 12 of 12 are "
        "classified right, of those without 0 of 2. ig puts 50.0 % of its evidence on ink that covers 6.2 % of the "
        "patch (p = "
    )
    assert sentence.endswith("after Holm, 12 groups): the classifier may read the mark.")
    [suspect] = found["suspects"]
    assert suspect.startswith("That the classifier knows b by tissue alone: ig puts 50.0 % of its evidence on ink")


def test_maps_off_the_ink_raise_no_suspicion() -> None:
    found = ink.ink_findings(inputs({"ig": 64 / SIZE**2, "lime": 0.01}))
    assert found is not None
    assert found["suspects"] == []
    assert found["sentences"][0].endswith("No method is shown to lie on it more than chance.")


def test_few_groups_with_ink_are_not_tested() -> None:
    found = ink.ink_findings(inputs({"ig": 0.5}, inked=5))
    assert found is not None
    assert found["rows"][0]["p_holm"] is None
    assert found["suspects"] == []
    assert found["sentences"][0].endswith("Whether maps lie on it more than chance is not tested (5 groups with ink).")


def test_no_ink_is_no_section() -> None:
    assert ink.ink_findings(inputs({"ig": 0.5}, inked=0)) is None
