"""Report every epoch: a row of the live table, history.csv, TensorBoard events."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from histoxai.core.progress import Progress
from histoxai.store.storage.files import write_atomically


class EpochLog:
    """The log of one run folder; a resumed run writes the earlier epochs again and continues."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._tensorboard: Any = None

    def begin(self, history: list[dict[str, float]]) -> None:
        """Open the log; replay the epochs of an interrupted run (`history`, empty for a new one)."""
        try:
            from lightning_fabric.loggers import TensorBoardLogger

            shutil.rmtree(self._folder / "tensorboard", ignore_errors=True)  # of a run that was stopped
            self._tensorboard = TensorBoardLogger(self._folder, name=None, version="tensorboard")
        except ModuleNotFoundError:
            pass
        for row in history:
            self._log(row)
        if history:
            self._progress.row(table_row(history[-1], None, False))

    def add(self, history: list[dict[str, float]], best_epoch: int, pace: float | None) -> None:
        """Log the last epoch of `history`; pace: patches per second of training."""
        row = history[-1]
        write_atomically(self._folder / "history.csv", as_csv(history), durable=False)
        self._log(row | ({} if pace is None else {"patches_per_second": pace}))
        self._progress.row(table_row(row, pace, best_epoch == row["epoch"]))

    def end(self, history: list[dict[str, float]]) -> None:
        """Write history.csv so that it survives a power cut, and close the TensorBoard events."""
        write_atomically(self._folder / "history.csv", as_csv(history))
        if self._tensorboard is not None:
            self._tensorboard.finalize("success")
            self._tensorboard = None

    def _log(self, row: dict[str, float]) -> None:
        if self._tensorboard is not None:
            self._tensorboard.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
            self._tensorboard.experiment.flush()


def as_csv(history: list[dict[str, float]]) -> bytes:
    """Return the history as CSV: a header and one line an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def table_row(epoch: dict[str, float], pace: float | None, best: bool) -> dict[str, str]:
    """Format an epoch as a row of the live table: column -> text."""
    cells = {"epoch": str(int(epoch["epoch"])), "learning rate": f"{epoch['lr']:.2e}"}
    for name, value in epoch.items():
        if name not in ("epoch", "lr"):
            cells[name.replace("_", " ")] = f"{value:.4f}"
    cells["patches/s"] = "" if pace is None else f"{pace:,.1f}"
    cells[""] = "best so far" if best else ""
    return cells
