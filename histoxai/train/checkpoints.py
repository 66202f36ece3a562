"""Write and read the checkpoints of an unfinished run, in its folder `last/`.

A checkpoint is a file of tensors and a JSON record with the checksum of that file, written after it. The newest two are
kept, so that one torn by a crash costs no more than the steps since the one before. The best weights so far are a file
of their own, written only when they have changed.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.networks.weights import save_tensors
from histoxai.store.records import has_valid_checksum, with_checksum
from histoxai.store.storage.files import remove_abandoned, write_json

Tensors = dict[str, torch.Tensor]
MOST = 2  # checkpoints that are kept
# Largest share of the time that writing may take: a large network with short epochs is not written after each.
SHARE = 0.1
_TORN = (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass
class LoopState:
    """How far a training loop has come: whole epochs, batches of the current one, and the history so far.

    sums: loss and metric, each summed over patches, and the number of patches, of the current epoch over all ranks.
    best: lowest validation loss. seconds: of training, over all starts. scaler: state of fp16's loss scaling.
    """

    epoch: int = 0
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    best: float = float("inf")
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run folder; `best` holds the best weights so far, as a state dict."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self._identity = identity
        self._saved, self._took = time.monotonic(), 0.0
        self._best: dict[str, Any] | None = None
        self.best: Tensors = {}
        self._best_changed = False
        self._read: tuple[str, LoopState, Tensors] | None = None  # the checkpoint that `newest` has read

    def begin(self) -> None:
        """Record the run's identity in the folder, and remove temporary files of runs that were killed."""
        remove_abandoned([self.folder])
        write_json(self.folder / "identity.json", self._identity)

    def newest(self, progress: Progress) -> str | None:
        """Return the name of the newest intact checkpoint; None without one.

        Torn checkpoints are reported and renamed. Raises OSError where the system cannot read.
        """
        for record in sorted(self.folder.glob("at-*.json"), reverse=True):
            try:
                self._read = (record.stem, *self.load(record.stem))
                return record.stem
            except _TORN as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                progress.warn(
                    f"{record}: this checkpoint is torn and not loaded ({reason}); going back to the one before"
                )
                # renamed, not removed: later checkpoints may take its name, and a person may want to look at it
                record.rename(record.with_name(f"torn-{record.name}"))
        if left := [*self.folder.glob("at-*.safetensors"), *self.folder.glob("best-*.safetensors")]:
            progress.warn(f"{left[0]}: no checkpoint in its folder is whole; training starts anew")
        return None

    def load(self, name: str) -> tuple[LoopState, Tensors]:
        """Return loop state and tensors of a checkpoint, and set `best` to its best weights.

        Raises one of `_TORN` where the checkpoint is torn, OSError where it cannot be read.
        """
        if self._read is not None and self._read[0] == name:
            _, state, tensors = self._read
            self._read = None
            return state, tensors
        saved = json.loads((self.folder / f"{name}.json").read_bytes())
        if not has_valid_checksum(saved):
            raise ValueError("fails its checksum")
        state = LoopState(**saved["state"])
        if len({frozenset(epoch) for epoch in state.history}) > 1:
            raise ValueError("the epochs of its history have different columns")
        tensors = _read_tensors(self.folder, saved["tensors"])
        self._best, self.best = saved["best"], _read_tensors(self.folder, saved["best"]) if saved["best"] else {}
        return state, tensors

    def due(self, minutes: float, epoch_ended: bool) -> bool:
        """Whether to write a checkpoint now: after `minutes` at the latest, or where an epoch has just ended."""
        since = time.monotonic() - self._saved
        return since >= 60 * minutes or (epoch_ended and self._took <= SHARE * since)

    def keep_best(self, weights: Tensors) -> None:
        """Copy the best weights so far; they are written with the next checkpoint."""
        self.best = {k: v.detach().clone() for k, v in weights.items()}
        self._best_changed = True

    def save(self, state: LoopState, tensors: Tensors) -> None:
        """Write a checkpoint, then remove all but the newest."""
        started = time.monotonic()
        name = f"at-{state.epoch:06d}-{state.batch:08d}"
        if self._best_changed:
            self._best = _write_tensors(self.folder, f"best-{state.best_epoch:06d}.safetensors", self.best)
            self._best_changed = False
        written = _write_tensors(self.folder, f"{name}.safetensors", tensors)
        facts = asdict(state)
        if state.best == float("inf"):
            del facts["best"]  # infinity is no JSON
        write_json(
            self.folder / f"{name}.json", with_checksum({"state": facts, "tensors": written, "best": self._best})
        )
        self._remove_old()
        self._saved = time.monotonic()
        self._took = self._saved - started

    def _remove_old(self) -> None:
        records = sorted(self.folder.glob("at-*.json"))
        for old in [*records[:-MOST], *self.folder.glob("torn-*.json")]:
            old.unlink()
        needed = set()
        for record in records[-MOST:]:
            try:
                saved = json.loads(record.read_bytes())
                needed |= {entry["file"] for entry in (saved["tensors"], saved["best"]) if entry}
            except (OSError, ValueError, TypeError, KeyError):
                continue  # a torn record's tensors are of no use
        for path in self.folder.glob("*.safetensors"):
            if path.name not in needed:
                path.unlink(missing_ok=True)


def check_weights_fit(weights: Tensors, own: Tensors) -> None:
    """Raise ValueError unless `weights` is empty or has the names and shapes of the network's `own`."""
    if weights and {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
        raise ValueError("its best weights have other names or shapes")


def remove_checkpoints(run_folder: Path) -> None:
    """Remove `last/` of a finished run."""
    shutil.rmtree(run_folder / "last", ignore_errors=True)


def _write_tensors(folder: Path, name: str, tensors: Tensors) -> dict[str, Any]:
    save_tensors(folder / name, tensors)
    return {"file": name, "checksum": provenance.file_checksum(folder / name)}


def _read_tensors(folder: Path, entry: dict[str, Any]) -> Tensors:
    path = folder / entry["file"]
    if provenance.file_checksum(path) != entry["checksum"]:
        raise ValueError(f"{path.name} fails its checksum")
    return safetensors.torch.load_file(path)
