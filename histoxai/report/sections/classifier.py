"""Build the section on the classifier: its training curves, accuracy, confusion and reliability."""

from __future__ import annotations

from typing import Any

import numpy as np

from histoxai.report.content import SectionContent
from histoxai.report.figures.training import confusion_matrix, reliability_curve, training_curves
from histoxai.report.sections.base import ReportInputs, Section, columns


def build(inputs: ReportInputs) -> Section[SectionContent]:
    """Build the section, with the study's table 4, the confusion matrix and the training curves as arrays.

    `scores` and `reliability` are None for runs of older versions.
    """
    facts, figures = inputs.lineage.classifier.facts, inputs.figures
    metrics, history = facts["metrics"], inputs.lineage.history("classifier")
    scores, confusion = metrics.get("scores"), np.array(metrics["confusion"])
    measured = scores if scores and scores["patches"] else None
    rows = _accuracy_rows(metrics, measured)
    curves = (training_curves, history, facts["best_epoch"], "accuracy", "accuracy")
    classifier = {
        **{k: facts[k] for k in ("arch", "epochs", "best_epoch", "split")},
        "note": inputs.lineage.classifier.partial_weights,
        "patches": metrics["patches"],
        "mean": metrics["mean_class_accuracy"],
        "accuracy": metrics["accuracy"],
        "table": rows,
        "curves": figures.add("curves-classifier", *curves),
        "confusion": figures.add("confusion", confusion_matrix, confusion, facts["classes"]),
        "scores": scores,
        "reliability": measured and figures.add("reliability", reliability_curve, measured["reliability"]),
    }
    arrays = {
        **columns("table4", rows, ("accuracy",), float),
        "table4_patches": np.array([r["n"] for r in rows]),
        "confusion": confusion,
        **{f"classifier_{k}": v for k, v in history.items()},
    }
    return Section({"classifier": classifier}, arrays)


def _accuracy_rows(metrics: dict[str, Any], measured: dict[str, Any] | None) -> list[dict[str, Any]]:
    # the study's table 4, with intervals where the run recorded them
    rows = [{"name": name, "n": row["n"], "accuracy": row["accuracy"]} for name, row in metrics["per_class"].items()]
    if measured is not None:
        for row in rows:
            interval = measured["per_class"][row["name"]]
            row["low"], row["high"] = interval["low"], interval["high"]
    return rows
