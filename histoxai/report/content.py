"""Tables and choices of the report: arrays in, plain rows out."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.score.profiles.thesis import ThesisProfile
from histoxai.score.summary.scores import label_of

# Why the corrected profile and the study's code differ: heading, measures, words.
WHY = [
    (heading, tuple(m.name for m in ThesisProfile.measures() if m.heading == heading), words)
    for heading, words in dict.fromkeys((m.heading, m.difference) for m in ThesisProfile.measures())
]
_SPLITS = {1: "train", 2: "validation", 3: "test"}


def class_counts(
    label: np.ndarray, split: np.ndarray, classes: list[str], table: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """The study's table 1: from `augment`'s table, or counted where the store was not augmented."""
    if table:
        columns = {"patches": "patches", "after rotation": "rotated", **{s: s for s in _SPLITS.values()}}
        rows = [[r["class"], *[r[k] for k in columns.values()]] for r in table]
        return {"columns": list(columns), "rows": rows}
    rows = []
    for code, name in enumerate(classes):
        mine = split[label == code]
        rows.append([name, len(mine), *[int((mine == k).sum()) for k in _SPLITS]])
    return {"columns": ["patches", *_SPLITS.values()], "rows": rows}


def accuracy_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The study's table 4: name, n and accuracy of each class."""
    return [{"name": name, **row} for name, row in metrics["per_class"].items()]


def partial_words(partial: dict[str, Any] | None) -> str:
    """What every figure of an incomplete store carries; nothing where it is complete."""
    return f"partial: {partial['patches']:,} of {partial['of']:,} patches" if partial else ""


def pick_cases(
    label: np.ndarray, prediction: np.ndarray, probability: np.ndarray, case: np.ndarray, present: list[int]
) -> list[list[int | None]]:
    """One patch per case and class by the study's rule, as positions; None where a case has none.

    Cases 1 and 3 (right, wrong, sure): the highest probability; 2 and 4 (right, wrong, unsure): the lowest.
    Ties go to the earlier patch. The case follows from `case`, right and wrong from the prediction.
    """
    assert ((prediction == label) == np.isin(case, (1, 2))).all()
    table: list[list[int | None]] = []
    for number in (1, 2, 3, 4):
        row: list[int | None] = []
        for code in present:
            mine = np.flatnonzero((case == number) & (label == code))
            best = np.argmax if number in (1, 3) else np.argmin
            row.append(int(mine[best(probability[mine])]) if len(mine) else None)
        table.append(row)
    return table


def table6(
    values: np.ndarray, label: np.ndarray, names: list[str], present: list[int], axes: dict[str, list[str]]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The study's table 6 in all profiles, as rows for the page and as arrays.

    values (n, method, mask, profile, metric). Arrays are (profile, mask, metric, method, class + all).
    """
    chosen = [label == c for c in present] + [np.ones(len(label), bool)]
    arranged = values.transpose(3, 2, 4, 1, 0)  # profile, mask, metric, method, n
    finite = np.isfinite(arranged)
    n = np.stack([finite[..., m].sum(axis=-1) for m in chosen], axis=-1)
    total = np.array([m.sum() for m in chosen])
    sums = np.stack([np.where(finite, arranged, 0)[..., m].sum(axis=-1) for m in chosen], axis=-1)
    mean = np.where(n > 0, sums / np.maximum(n, 1), np.nan)
    tables = [
        {
            "mask": mask.replace("_", "-"),
            "classes": [*names, "all"],
            "rows": _rows(mean[:, j], total - n[:, j], axes),
        }
        for j, mask in enumerate(axes["mask"])
    ]
    return tables, {"mean": mean, "n": n, "undefined": total - n}


def _rows(mean: np.ndarray, undefined: np.ndarray, axes: dict[str, list[str]]) -> list[dict[str, Any]]:
    # mean, undefined (profile, metric, method, class)
    rows = []
    for k, metric in enumerate(axes["metric"]):
        for i, method in enumerate(axes["method"]):
            cells = []
            for p in range(len(axes["profile"])):
                column = mean[p, k]
                for c in range(column.shape[-1]):
                    known = column[:, c][np.isfinite(column[:, c])]
                    best = len(known) > 1 and column[i, c] == known.max() and known.max() > known.min()
                    value = float(column[i, c])
                    cells.append(
                        {
                            "mean": value if np.isfinite(value) else None,
                            "undefined": int(undefined[p, k, i, c]),
                            "first": c == 0,
                            "best": bool(best),
                        }
                    )
            rows.append({"metric": label_of(metric), "method": method, "first": i == 0, "cells": cells})
    return rows


def case_means(values: np.ndarray, label: np.ndarray, case: np.ndarray, present: list[int]) -> dict[str, np.ndarray]:
    """Means of the four cases: (profile, mask, metric, method, class + all, case), and their n."""
    arranged = values.transpose(3, 2, 4, 1, 0)
    shape = (*arranged.shape[:-1], len(present) + 1, 4)
    mean, n = np.full(shape, np.nan), np.zeros(shape, np.int64)
    for c, of_class in enumerate([label == k for k in present] + [np.ones(len(label), bool)]):
        for k in range(4):
            mine = arranged[..., of_class & (case == k + 1)]
            finite = np.isfinite(mine)
            n[..., c, k] = finite.sum(axis=-1)
            sums = np.where(finite, mine, 0).sum(axis=-1)
            mean[..., c, k] = np.where(n[..., c, k] > 0, sums / np.maximum(n[..., c, k], 1), np.nan)
    return {"case_mean": mean, "case_n": n}
