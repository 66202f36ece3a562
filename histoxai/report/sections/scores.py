"""Build the section on scores: the study's table 6 in every profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from histoxai.report.profile_differences import PROFILE_DIFFERENCES, ProfileDifference
from histoxai.report.sections.base import ReportInputs, Section
from histoxai.report.wording import hyphenated
from histoxai.score.summary.scores import label_of


class MeanCell(TypedDict):
    """A mean of table 6; first: of its profile; best: the only or shared highest of its column."""

    mean: float | None
    undefined: int
    first: bool
    best: bool


class MeanTableRow(TypedDict):
    """Means of a measure and method over all profiles and classes; first: of its measure."""

    metric: str
    method: str
    first: bool
    cells: list[MeanCell]


class MeanTable(TypedDict):
    """The study's table 6 for one mask."""

    mask: str
    classes: list[str]
    rows: list[MeanTableRow]


class ScoresContent(TypedDict):
    """Values of the template `sections/scores.html`."""

    table6: list[MeanTable]
    profiles: list[str]
    why: Sequence[ProfileDifference]


@dataclass(frozen=True)
class ClassMeans:
    """Means over patches, float64, with numbers of defined and undefined values.

    Axes: (profile, mask, metric, method, class + all).
    """

    mean: np.ndarray
    n: np.ndarray
    undefined: np.ndarray


def build(inputs: ReportInputs) -> Section:
    """Build the section, with means by class, and by class and case, in every profile."""
    means = class_means(inputs.values, inputs.label, inputs.present_classes)
    content: ScoresContent = {
        "table6": mean_tables(means, inputs.class_names, inputs.axes),
        "profiles": inputs.axes["profile"],
        "why": PROFILE_DIFFERENCES,
    }
    arrays = {
        "table6_mean": means.mean,
        "table6_n": means.n,
        "table6_undefined": means.undefined,
        **case_means(inputs.values, inputs.label, inputs.case, inputs.present_classes),
    }
    return Section(content, arrays)


def _class_selections(label: np.ndarray, present: Sequence[int]) -> list[np.ndarray]:
    # patches of each class, and all
    return [*(label == code for code in present), np.ones(len(label), bool)]


def _finite_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # mean (...) of the finite values (..., n), NaN without any, and their number
    finite = np.isfinite(values)
    n = finite.sum(axis=-1)
    total = np.where(finite, values, 0).sum(axis=-1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan), n


def class_means(values: np.ndarray, label: np.ndarray, present: Sequence[int]) -> ClassMeans:
    """Average values (n, method, mask, profile, metric) over the patches of each class and of all."""
    arranged = values.transpose(3, 2, 4, 1, 0)  # profile, mask, metric, method, n
    selections = _class_selections(label, present)
    parts = [_finite_mean(arranged[..., of_class]) for of_class in selections]
    mean, n = (np.stack(part, axis=-1) for part in zip(*parts, strict=True))
    total = np.array([of_class.sum() for of_class in selections])
    return ClassMeans(mean, n, total - n)


def case_means(
    values: np.ndarray, label: np.ndarray, case: np.ndarray, present: Sequence[int]
) -> dict[str, np.ndarray]:
    """Average values by class and case: `case_mean`, `case_n` (profile, mask, metric, method, class + all, case)."""
    arranged = values.transpose(3, 2, 4, 1, 0)
    shape = (*arranged.shape[:-1], len(present) + 1, 4)
    mean, n = np.full(shape, np.nan), np.zeros(shape, np.int64)
    for c, of_class in enumerate(_class_selections(label, present)):
        for k in range(4):
            mean[..., c, k], n[..., c, k] = _finite_mean(arranged[..., of_class & (case == k + 1)])
    return {"case_mean": mean, "case_n": n}


def mean_tables(means: ClassMeans, class_names: Sequence[str], axes: dict[str, list[str]]) -> list[MeanTable]:
    """Arrange means as the study's table 6, a table per mask."""
    return [
        {
            "mask": hyphenated(mask),
            "classes": [*class_names, "all"],
            "rows": _table_rows(means.mean[:, j], means.undefined[:, j], axes),
        }
        for j, mask in enumerate(axes["mask"])
    ]


def _table_rows(mean: np.ndarray, undefined: np.ndarray, axes: dict[str, list[str]]) -> list[MeanTableRow]:
    # mean, undefined (profile, metric, method, class)
    rows: list[MeanTableRow] = []
    for k, metric in enumerate(axes["metric"]):
        for i, method in enumerate(axes["method"]):
            cells = [
                _cell(mean[p, k, :, c], undefined[p, k, :, c], i, c)
                for p, c in np.ndindex(mean.shape[0], mean.shape[3])
            ]
            rows.append({"metric": label_of(metric), "method": method, "first": i == 0, "cells": cells})
    return rows


def _cell(mean: np.ndarray, undefined: np.ndarray, method: int, class_index: int) -> MeanCell:
    # mean, undefined (method,)
    defined, value = mean[np.isfinite(mean)], float(mean[method])
    best = len(defined) > 1 and value == defined.max() and defined.max() > defined.min()
    return {
        "mean": value if np.isfinite(value) else None,
        "undefined": int(undefined[method]),
        "first": class_index == 0,
        "best": bool(best),
    }
