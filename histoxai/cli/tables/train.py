"""Show the summaries of `train-cls` and `train-seg` as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from histoxai.cli.tables.base import Table, number


def accuracy(summary: dict[str, Any]) -> Group:
    """Show accuracy by class on the test split with intervals, as the study's table 4."""
    title = f"{summary['output']}: accuracy on {summary['split']} ({summary['patches']} patches)"
    lines = [_others(summary["scores"])]
    if summary["calibration"]:
        c = summary["calibration"]
        lines.append(
            f"temperature {c['temperature']:.3f}: calibration error on validation {c['calibration_error']:.3f}, before "
            f"{c['calibration_error_before']:.3f}"
        )
    return Group(_of_classes(title, summary["scores"], summary["mean_class_accuracy"]), *map(Text, lines))


def folds(summary: dict[str, Any]) -> Group:
    """Show the accuracy on all folds' test patches together, and of each fold."""
    scores, each = summary["scores"], summary["accuracy_of_folds"]
    trained, of = len(summary["runs"]), summary["folds"]
    which = f"all {of} folds'" if trained == of else f"{trained} of {of} folds'"
    title = f"{summary['output']}: accuracy on {which} test patches ({scores['patches']} patches)"
    each_fold = ", ".join(number(v) for v in each["each"])
    lines = [_others(scores), f"accuracy of folds {each_fold}; mean {number(each['mean'])}, sd {number(each['sd'])}"]
    return Group(_of_classes(title, scores, scores["balanced_accuracy"]), *map(Text, lines))


def rates(summary: dict[str, Any]) -> Group:
    """Show learning rates that were tried with their loss, and the suggested one."""
    curve, suggested = summary["curve"], summary["suggestion"]
    table = Table(title="learning rates tried")
    for name in ("rate", "loss", ""):
        table.add_column(name, justify="left" if not name else "right")
    marked = next((k for k, c in enumerate(curve) if c["lr"] == suggested), None)
    for k, row in enumerate(curve):
        if k % 7 == 0 or k == marked:
            mark = "falls fastest" if k == marked else ""
            table.add_row(f"{row['lr']:.1e}", f"{row['smoothed']:.4f}", mark, style="bold" if mark else None)
    word = "the loss never fell; look at the data" if suggested is None else f"try --lr {suggested:.1e}"
    return Group(table, Text(word))


def _of_classes(title: str, scores: dict[str, Any], mean: float | None) -> Table:
    table = Table(title, "class", "patches", "accuracy", "95 % interval")
    for name, row in scores["per_class"].items():
        table.add_row(name, str(row["n"]), number(row["mean"]), _interval(row))
    everything = scores["accuracy"]
    table.add_row("mean of classes", str(scores["patches"]), number(mean), "", style="bold")
    table.add_row("all patches", str(scores["patches"]), number(everything["mean"]), _interval(everything))
    return table


def _interval(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"- ({row['groups']} groups)"
    return f"{row['low']:.3f} to {row['high']:.3f}"


def _others(scores: dict[str, Any]) -> str:
    return (
        f"macro AUROC {number(scores['macro_auroc'])}, kappa with quadratic weights "
        f"{number(scores['kappa_quadratic'])}, calibration error {number(scores['calibration_error'])}"
    )


def segmentation(summary: dict[str, Any]) -> Table:
    """Show IoU and Dice of each plane on the test split, or on validation without one."""
    table = Table(f"{summary['output']}: {summary['split']}, pooled pixels", "mask", "IoU", "Dice")
    for name, value in summary["masks"].items():
        table.add_row(name, number(value["iou"]), number(value["dice"]))
    return table
