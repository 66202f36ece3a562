"""`last/`: checkpoints of a run that goes on: weights, moments, averages, and how far it has come.

A checkpoint is a file of tensors and, written after it, a JSON file with its checksum. Two are kept, so that one torn
by a crash costs the way back to the one before it. The best weights so far are a file of their own, which is written
when they change and not every time.
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
KEPT = 2
# Writing takes at most this share of the time: a large network with short epochs is not written after every one.
SHARE = 0.1


@dataclass
class State:
    """How far a run has come: whole epochs, batches of the running one, and their sums; the history so far.

    sums: of loss, of the other measure, and of patches, over all processes. seconds: of training, over
    all starts. scaler: of fp16's losses.
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
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self._identity = identity
        self._saved, self._took = time.monotonic(), 0.0
        self._best: dict[str, Any] | None = None
        self.best: Tensors = {}
        self._best_changed = False
        self._whole: tuple[str, State, Tensors] | None = None  # what `newest` has read

    def begin(self) -> None:
        """Say in the folder whose it is; sweep what killed runs left."""
        remove_abandoned([self.folder])
        write_json(self.folder / "identity.json", self._identity)

    def newest(self, progress: Progress) -> str | None:
        """The name of the newest checkpoint that is whole; None without one.

        Those that are torn are said to be so, and set aside. Raises OSError where the system cannot read.
        """
        found = None
        for place in sorted(self.folder.glob("at-*.json"), reverse=True):
            try:
                self._whole = (place.stem, *self.load(place.stem))
                found = place.stem
                break
            except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                why = (str(error).splitlines() or [type(error).__name__])[0]
                progress.warn(f"{place}: this checkpoint is torn and not loaded ({why}); going back to the one before")
                # out of the way of later ones, and not lost
                place.rename(place.with_name(f"torn-{place.name}"))
        if found is None and self.folder.exists():
            for left in [*self.folder.glob("at-*.safetensors"), *self.folder.glob("best-*.safetensors")]:
                progress.warn(f"{left}: no checkpoint in its folder is whole; training starts anew")
                break
        return found

    def load(self, name: str) -> tuple[State, Tensors]:
        """State and tensors of a checkpoint, and its best weights in `best`.

        Raises ValueError and its like where it is torn, OSError where it cannot be read.
        """
        if self._whole is not None and self._whole[0] == name:
            _, state, tensors = self._whole
            self._whole = None
            return state, tensors
        saved = json.loads((self.folder / f"{name}.json").read_bytes())
        if not has_valid_checksum(saved):
            raise ValueError("fails its checksum")
        state = State(**saved["state"])
        if len({frozenset(epoch) for epoch in state.history}) > 1:
            raise ValueError("its epochs have other columns than each other")
        tensors = _read(self.folder, saved["tensors"])
        self._best, self.best = saved["best"], _read(self.folder, saved["best"]) if saved["best"] else {}
        return state, tensors

    def due(self, minutes: float, boundary: bool) -> bool:
        """Whether to write now; boundary: an epoch has just ended."""
        since = time.monotonic() - self._saved
        return since >= 60 * minutes or (boundary and self._took <= SHARE * since)

    def keep_best(self, weights: Tensors) -> None:
        """Hold on to weights that are the best so far; they are written with the next checkpoint."""
        self.best = {k: v.detach().clone() for k, v in weights.items()}
        self._best_changed = True

    def save(self, state: State, tensors: Tensors) -> None:
        """Write a checkpoint, then remove those before the last `KEPT`."""
        started = time.monotonic()
        name = f"at-{state.epoch:06d}-{state.batch:08d}"
        if self._best_changed:
            self._best = _write(self.folder, f"best-{state.best_epoch:06d}.safetensors", self.best)
            self._best_changed = False
        written = _write(self.folder, f"{name}.safetensors", tensors)
        best = None if state.best == float("inf") else state.best
        facts = {**asdict(state), "best": best}
        if best is None:
            del facts["best"]  # infinity is no JSON
        write_json(
            self.folder / f"{name}.json", with_checksum({"state": facts, "tensors": written, "best": self._best})
        )
        self._remove_old()
        self._saved = time.monotonic()
        self._took = self._saved - started

    def _remove_old(self) -> None:
        records = sorted(self.folder.glob("at-*.json"))
        for old in [*records[:-KEPT], *self.folder.glob("torn-*.json")]:
            old.unlink()
        named = set()
        for place in records[-KEPT:]:
            try:
                saved = json.loads(place.read_bytes())
                named |= {entry["file"] for entry in (saved["tensors"], saved["best"]) if entry}
            except (OSError, ValueError, TypeError, KeyError):
                continue  # torn by others; its tensors are of no use either
        for path in self.folder.glob("*.safetensors"):
            if path.name not in named:
                path.unlink(missing_ok=True)


def check_fit(best: Tensors, own: Tensors) -> None:
    """Raise ValueError where best weights are not of this network."""
    if best and {k: v.shape for k, v in best.items()} != {k: v.shape for k, v in own.items()}:
        raise ValueError("its best weights have other names or shapes")


def forget(folder: Path) -> None:
    """Remove `last/` once the run is finished."""
    shutil.rmtree(folder / "last", ignore_errors=True)


def _write(folder: Path, name: str, tensors: Tensors) -> dict[str, Any]:
    save_tensors(folder / name, tensors)
    return {"file": name, "checksum": provenance.file_checksum(folder / name)}


def _read(folder: Path, entry: dict[str, Any]) -> Tensors:
    path = folder / entry["file"]
    if provenance.file_checksum(path) != entry["checksum"]:
        raise ValueError(f"{path.name} fails its checksum")
    return safetensors.torch.load_file(path)
