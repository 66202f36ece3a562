"""Build the section on the classifier: its training curves, accuracy, confusion and reliability."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import numpy as np

from histoxai.report.figures.pool import PageFigure
from histoxai.report.figures.training import confusion_matrix, reliability_curve, training_curves
from histoxai.report.sections.base import ReportInputs, Section, floats


class AccuracyRow(TypedDict):
    """Accuracy of one class in the study's table 4; ends of its interval where the run recorded them."""

    name: str
    n: int
    accuracy: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class Classifier(TypedDict):
    """How the classifier was trained and how well it does; `scores` and `reliability` are None for older runs."""

    arch: str
    epochs: int
    best_epoch: int
    split: str
    patches: int
    mean: float | None
    accuracy: float | None
    table: list[AccuracyRow]
    curves: PageFigure
    confusion: PageFigure
    scores: dict[str, Any] | None
    reliability: PageFigure | None


class ClassifierContent(TypedDict):
    """Values of the template `sections/classifier.html`."""

    classifier: Classifier


def build(inputs: ReportInputs) -> Section:
    """Build the section, with the study's table 4, the confusion matrix and the training curves as arrays."""
    facts, figures = inputs.lineage.classifier.facts, inputs.figures
    metrics, history = facts["metrics"], inputs.lineage.history("classifier")
    scores, confusion = metrics.get("scores"), np.array(metrics["confusion"])
    measured = scores if scores and scores["patches"] else None
    curves = (training_curves, history, facts["best_epoch"], "accuracy", "accuracy")
    content: ClassifierContent = {
        "classifier": {
            "arch": facts["arch"],
            "epochs": facts["epochs"],
            "best_epoch": facts["best_epoch"],
            "split": facts["split"],
            "patches": metrics["patches"],
            "mean": metrics["mean_class_accuracy"],
            "accuracy": metrics["accuracy"],
            "table": _accuracy_rows(metrics, measured),
            "curves": figures.add("curves-classifier", *curves),
            "confusion": figures.add("confusion", confusion_matrix, confusion, facts["classes"]),
            "scores": scores,
            "reliability": measured and figures.add("reliability", reliability_curve, measured["reliability"]),
        }
    }
    rows = content["classifier"]["table"]
    arrays = {
        "table4_accuracy": floats([r["accuracy"] for r in rows]),
        "table4_patches": np.array([r["n"] for r in rows]),
        "confusion": confusion,
        **{f"classifier_{k}": v for k, v in history.items()},
    }
    return Section(content, arrays)


def _accuracy_rows(metrics: dict[str, Any], measured: dict[str, Any] | None) -> list[AccuracyRow]:
    rows: list[AccuracyRow] = [
        {"name": name, "n": row["n"], "accuracy": row["accuracy"]} for name, row in metrics["per_class"].items()
    ]
    if measured is not None:
        for row in rows:
            interval = measured["per_class"][row["name"]]
            row["low"], row["high"] = interval["low"], interval["high"]
    return rows
