"""What a training tells after every epoch: a row of the live table, history.csv, TensorBoard's events."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

from histoxai.core.progress import Progress
from histoxai.store.storage.files import write_atomically


class Journal:
    """The journal of one run folder; a resumed run writes what was there again, and goes on."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._events: Any = None

    def begin(self, history: list[dict[str, float]]) -> None:
        """Start with the epochs that are behind."""
        try:
            from lightning_fabric.loggers import TensorBoardLogger

            shutil.rmtree(self._folder / "tensorboard", ignore_errors=True)  # of a run that was stopped
            self._events = TensorBoardLogger(self._folder, name=None, version="tensorboard")
        except ModuleNotFoundError:
            pass
        for row in history:
            self._log(row)
        if history:
            self._progress.row(cells(history[-1], None, False))

    def add(self, row: dict[str, float], history: list[dict[str, float]], best: int, pace: float | None) -> None:
        """An epoch is over: `row`, the last of `history`; pace: patches per second of training."""
        write_atomically(self._folder / "history.csv", as_csv(history), durable=False)
        self._log(row | ({} if pace is None else {"patches_per_second": pace}))
        self._progress.row(cells(row, pace, best == row["epoch"]))

    def end(self, history: list[dict[str, float]]) -> None:
        """Write what has to outlive a power cut, and close the events."""
        write_atomically(self._folder / "history.csv", as_csv(history))
        if self._events is not None:
            self._events.finalize("success")
            self._events = None

    def _log(self, row: dict[str, float]) -> None:
        if self._events is not None:
            self._events.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
            self._events.experiment.flush()


def as_csv(history: list[dict[str, float]]) -> bytes:
    """One line an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def cells(row: dict[str, float], pace: float | None, best: bool) -> dict[str, str]:
    """An epoch as a row of the live table."""
    found = {"epoch": str(int(row["epoch"])), "learning rate": f"{row['lr']:.2e}"}
    for name, value in row.items():
        if name not in ("epoch", "lr"):
            found[name.replace("_", " ")] = f"{value:.4f}"
    found["patches/s"] = "" if pace is None else f"{pace:,.1f}"
    found[""] = "best so far" if best else ""
    return found
