"""Draw training curves, confusion matrices and reliability curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from histoxai.report.figures.style import BLUE, GREY, ORANGE, abbreviate, styled, tick_rotation


@styled
def training_curves(history: Mapping[str, np.ndarray], best_epoch: int, measure: str, measure_label: str) -> Figure:
    """Draw training and validation loss, and one more measure, over epochs; mark the epoch of the stored weights.

    history: column -> (epochs,), with `epoch`, and `loss` and `measure` after the prefixes `train_` and `validation_`.
    """
    figure = Figure(figsize=(7.6, 2.8), layout="constrained")
    titles = (("loss", "loss"), (measure, measure_label))
    for axes, (column, title) in zip(figure.subplots(1, 2), titles, strict=True):
        for split, colour in (("train", BLUE), ("validation", ORANGE)):
            axes.plot(history["epoch"], history[f"{split}_{column}"], color=colour, marker=".", label=split)
        axes.axvline(best_epoch, color=GREY, lw=1, ls=":", label=f"weights of epoch {best_epoch}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)
    return figure


@styled
def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix (C, C): rows true, columns predicted; the colour is the share of the row."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.48 * len(classes)
    figure = Figure(figsize=(side + 1.6, side), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts):
        axes.text(j, i, str(n), ha="center", va="center", color="white" if share[i, j] > 0.55 else "black")
    axes.set(xlabel="predicted", ylabel="true")
    names = [abbreviate(c) for c in classes]
    axes.set_xticks(range(len(classes)), names, rotation=tick_rotation(names))
    axes.set_yticks(range(len(classes)), names)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


@styled
def reliability_curve(bins: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracy against confidence, with a marker for each bin of confidence; markers of more patches are larger.

    bins: each has `confidence`, `accuracy` (None if empty) and `n`.
    """
    figure = Figure(figsize=(3.6, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":", label="perfect calibration")
    filled = [r for r in bins if r["n"]]
    total = sum(r["n"] for r in filled)
    x, y = [r["confidence"] for r in filled], [r["accuracy"] for r in filled]
    axes.plot(x, y, color=BLUE, lw=1)
    axes.scatter(x, y, s=[8 + 160 * r["n"] / total for r in filled], color=BLUE, zorder=3, label="this classifier")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
