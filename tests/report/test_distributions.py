"""Violins in both profiles: which values each figure draws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from histoxai.report.figures.violins import PatchScores, violins
from histoxai.report.sections.distributions import build


class Drawn:
    """A pool that keeps what it was asked to draw."""

    def __init__(self) -> None:
        self.figures: dict[str, tuple[Any, ...]] = {}

    def add(self, name: str, draw: Any, *arguments: Any) -> str:
        assert draw is violins
        self.figures[name] = arguments
        return name


def test_each_profile_has_a_figure_of_its_values() -> None:
    # patch, method, mask, profile, metric; phi has the same values in both profiles, undefined ones too
    values = np.random.default_rng(0).random((6, 2, 2, 2, 3))
    values[..., 1, 2] = values[..., 0, 2]
    values[0, ..., 2] = np.nan
    axes = {"method": ["ig", "nt"], "mask": ["tumor", "non_tumor"], "profile": ["corrected", "thesis"]}
    axes["metric"] = ["iou", "f1", "phi"]
    pool = Drawn()
    header = SimpleNamespace(header={"settings": {"sure": 0.6}})
    lineage = SimpleNamespace(scores=header, patches=SimpleNamespace(classes=["A", "N", "R1"]), partial=None)
    inputs: Any = SimpleNamespace(
        axes=axes,
        values=values,
        label=np.array([0, 0, 2, 2, 2, 0]),
        case=np.array([1, 2, 3, 4, 1, 1]),
        patch_id=np.arange(6),
        class_names=["A", "R1"],
        present_classes=[0, 2],
        figures=pool,
        lineage=lineage,
    )
    corrected, thesis = build(inputs).content["violins"]
    assert [f["name"] for f in corrected["figures"]] == ["IoU", "F1", "phi"]
    assert corrected["same"] == []
    assert [f["name"] for f in thesis["figures"]] == ["IoU", "F1"]
    assert thesis["same"] == ["phi"]
    assert list(pool.figures) == ["violins-iou", "violins-f1", "violins-phi", "violins-thesis-iou", "violins-thesis-f1"]
    for name, p, k in (("violins-f1", 0, 1), ("violins-thesis-f1", 1, 1), ("violins-thesis-iou", 1, 0)):
        scores: PatchScores = pool.figures[name][0]
        np.testing.assert_array_equal(scores.values, values[:, :, :, p, k])
        assert scores.label.tolist() == [0, 0, 1, 1, 1, 0]
    # a marker per class and case stands at the mean of its patches
    panel = violins(pool.figures["violins-thesis-iou"][0], "IoU", False).axes[0]
    marks = [line.get_ydata()[0] for line in panel.lines if line.get_marker() in "os^D"]
    iou, label, case = values[:, 0, 0, 1, 0], inputs.label, inputs.case
    want = [
        iou[(label == c) & (case == k)].mean()
        for c in (0, 2)
        for k in (1, 2, 3, 4)
        if ((label == c) & (case == k)).any()
    ]
    np.testing.assert_allclose(marks, want)
