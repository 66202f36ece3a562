"""Build the section on scores: the study's table 6 in every profile, and the numbers of the table of all means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from histoxai.core.digits import decimals_for
from histoxai.report.content import SectionContent
from histoxai.report.page.payload import MEAN_KEYS
from histoxai.report.sections.base import ReportInputs, Section, columns
from histoxai.report.wording import hyphenated
from histoxai.score.profiles.thesis import ThesisProfile
from histoxai.score.summary.scores import label_of


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section, with means by class, and by class and case, in every profile.

    Means have the axes (profile, mask, metric, method, class + all) and, by case, (..., case).
    """
    values = inputs.values.transpose(3, 2, 4, 1, 0)  # profile, mask, metric, method, n
    classes = [*(inputs.label == code for code in inputs.present_classes), np.ones(len(inputs.label), bool)]
    mean, n = _means(values, classes)
    undefined = np.array([of_class.sum() for of_class in classes]) - n
    by_case = [_means(values, [of_class & (inputs.case == k) for of_class in classes]) for k in (1, 2, 3, 4)]
    case_mean, case_n = (np.stack(parts, axis=-1) for parts in zip(*by_case, strict=True))
    content: SectionContent = {
        "table6": [
            {
                "mask": hyphenated(mask),
                "classes": [*inputs.class_names, "all"],
                "rows": list(_table_rows(mean[:, j], undefined[:, j], inputs.axes)),
            }
            for j, mask in enumerate(inputs.axes["mask"])
        ],
        "profiles": inputs.axes["profile"],
        "why": list(dict.fromkeys((m.heading, m.difference) for m in ThesisProfile.measures())),
    }
    arrays = {
        "table6_mean": mean,
        "table6_n": n,
        "table6_undefined": undefined,
        "case_mean": case_mean,
        "case_n": case_n,
    }
    return Section(content, arrays)


def _means(values: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    # mean (..., group) of the finite values (..., n) of each group of patches, and their number
    means, counts = zip(*[_finite_mean(values[..., group]) for group in groups], strict=True)
    return np.stack(means, axis=-1), np.stack(counts, axis=-1)


def _finite_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # mean (...) of the finite values (..., n), NaN without any, and their number
    finite = np.isfinite(values)
    n = finite.sum(axis=-1)
    total = np.where(finite, values, 0).sum(axis=-1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan), n


def _table_rows(mean: np.ndarray, undefined: np.ndarray, axes: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    # mean, undefined (profile, metric, method, class); a row per measure and method
    for k, metric in enumerate(axes["metric"]):
        for i, method in enumerate(axes["method"]):
            cells = [
                _cell(mean[p, k, :, c], undefined[p, k, :, c], i, c)
                for p, c in np.ndindex(mean.shape[0], mean.shape[3])
            ]
            yield {"metric": label_of(metric), "method": method, "first": i == 0, "cells": cells}


def _cell(mean: np.ndarray, undefined: np.ndarray, method: int, class_index: int) -> dict[str, Any]:
    # mean, undefined (method,); first: of its profile; best: the only or shared highest of its column;
    # decimals: as many as tell the methods of this column apart
    defined, value = mean[np.isfinite(mean)], float(mean[method])
    best = len(defined) > 1 and value == defined.max() and defined.max() > defined.min()
    return {
        "mean": value if np.isfinite(value) else None,
        "decimals": decimals_for(mean.tolist()),
        "undefined": int(undefined[method]),
        "first": class_index == 0,
        "best": bool(best),
    }


def build_all_means(inputs: ReportInputs) -> Section[SectionContent]:
    """Build arrays of every mean of every profile, a row each; the page's scripts draw their table."""
    rows = [{**row, "profile": profile} for profile, means in inputs.results.means.items() for row in means]
    numbers = columns("means", rows, ("mean", "low", "high", "chance"), float)
    arrays = columns("means", rows, MEAN_KEYS) | numbers | columns("means", rows, ("n", "undefined"))
    return Section({}, arrays)
