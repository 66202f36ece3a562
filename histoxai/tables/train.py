"""Summaries of `train-cls` and `train-seg` as tables for people."""

from __future__ import annotations

from typing import Any

from histoxai.tables.base import Table, number


def accuracy(summary: dict[str, Any]) -> Table:
    """Per-class and mean accuracy on the test split, the study's table 4."""
    table = Table(title=f"{summary['output']}: accuracy on {summary['split']} ({summary['patches']} patches)")
    table.add_column("class")
    table.add_column("patches", justify="right")
    table.add_column("accuracy", justify="right")
    for name, value in summary["per_class"].items():
        table.add_row(name, str(value["n"]), number(value["accuracy"]))
    table.add_row("mean of classes", str(summary["patches"]), number(summary["mean_class_accuracy"]), style="bold")
    return table


def segmentation(summary: dict[str, Any]) -> Table:
    """IoU and Dice of each plane on the validation split."""
    table = Table(title=f"{summary['output']}: validation, pooled pixels")
    for column in ("mask", "IoU", "Dice"):
        table.add_column(column, justify="left" if column == "mask" else "right")
    for name, value in summary["masks"].items():
        table.add_row(name, number(value["iou"]), number(value["dice"]))
    return table
