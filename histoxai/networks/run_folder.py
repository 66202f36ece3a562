"""Run folders as records: what `run.json` says, whether it is finished, and whether it fits given settings.

Nothing here imports torch, so that looking at a run folder takes no time; networks/weights.py reads the weights.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoxai.core import provenance
from histoxai.core.errors import InputRefused, SettingsDiffer
from histoxai.store.parents import ParentKind
from histoxai.store.records import has_valid_checksum
from histoxai.store.state import with_force, with_output
from histoxai.store.storage.files import read_json

SCHEMA = "run/1"
WEIGHTS = "weights.safetensors"
RUN = "run.json"
_TYPES = {  # of what every `run.json` has
    "kind": str,
    "arch": str,
    "recipe": dict,
    "classes": list,
    "size": list,
    "normalisation": str,
    "weights": dict,
    "parents": dict,
    "metrics": dict,
    "run": dict,
}
# What earlier versions of histoxai did, which had no setting for it and did not record it.
_UNRECORDED = {
    "network_version": 1,
    "settings.stop_rule": "patience",
    "settings.allow_partial_weights": False,
    "settings.augment.noise": 0.0,
    "settings.augment.crop": 0.0,
}
# How a network of an older recipe differs from that of today, by architecture and version.
_DIFFERENCES = {("thesis-cnn", 1): "without the study's ReLU between BatchNorm and the second linear layer"}


@dataclass(frozen=True)
class Run:
    """A finished run folder; facts: the content of its `run.json`."""

    path: Path
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """The fingerprint of recipe and weights."""
        keys = ("kind", "arch", "recipe", "classes", "size", "normalisation", "weights")
        return provenance.fingerprint({k: self.facts[k] for k in keys})

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the patches that the network was trained on; None: unknown."""
        return self.facts["mpp"]

    @property
    def remedy(self) -> str:
        """How to replace a damaged folder: the command that trains it again."""
        return f"train again: `{with_force(with_output(str(self.facts['run'].get('command')), self.path))}`"

    @property
    def difference(self) -> str | None:
        """How the network of an older recipe differs from that of today; None where it does not."""
        of = (self.facts["arch"], self.facts["recipe"].get("version", 1))
        return next((words for older, words in _DIFFERENCES.items() if older == of), None)

    @property
    def partial_weights(self) -> str | None:
        """What --allow-partial-weights let pass when the training began; None for nothing."""
        pretrained = self.facts.get("pretrained") or {}
        if not pretrained.get("partial"):
            return None
        missing, unexpected = (len(pretrained[kind]) for kind in ("missing", "unexpected"))
        return (
            f"began from part of the encoder in {pretrained['file']} (--allow-partial-weights): {missing} tensors were "
            f"missing and stayed random, {unexpected} of the file were left out"
        )

    @property
    def notice(self) -> str | None:
        """What a user should know before this network is used; None for nothing."""
        notes = []
        if self.difference is not None:
            notes.append(
                f"holds the {self.facts['arch']} of an earlier histoxai, {self.difference}; it is used as it was "
                f"trained; for the study's network {self.remedy}"
            )
        if self.partial_weights:
            notes.append(self.partial_weights)
        return f"{self.path}: {'; '.join(notes)}" if notes else None


def run_parent(name: str, kind: str) -> ParentKind[Run]:
    """Return how to open a run folder that a store names as its parent; name: "model" or "segmenter"."""
    return ParentKind(name, lambda path: open_run(path, kind), lambda run: run.digest)


def open_run(path: Path, kind: str | None = None) -> Run:
    """Open a finished run folder; kind: "classifier", "segmenter", or None for either.

    Raises InputRefused where the folder is none of that kind, is damaged, or is not finished.
    """
    command = "train-seg" if kind == "segmenter" else "train-cls"
    if not path.is_dir():
        raise InputRefused(f"{path}: no such run folder; make it with `histoxai {command}`")
    facts = read_json(path / RUN)
    if isinstance(facts, dict) and facts.get("schema") == SCHEMA:
        if not has_valid_checksum(facts):
            raise InputRefused(f"{path / RUN}: is not what was written (its checksum differs); train again")
        if wrong := [k for k, t in _TYPES.items() if not isinstance(facts.get(k), t)]:
            raise InputRefused(f"{path / RUN}: is damaged ({', '.join(wrong)}); train again")
    else:
        state = "training has not finished; run it again to go on" if (path / "last").exists() else "not a run folder"
        raise InputRefused(f"{path}: has no {RUN} of schema {SCHEMA} ({state}: `histoxai {command}`)")
    if kind is not None and facts["kind"] != kind:
        raise InputRefused(f"{path}: holds a {facts['kind']}; expected a {kind}, as `histoxai {command}` makes it")
    return Run(path, facts)


def run_state(path: Path, identity: dict[str, Any], command: str) -> str:
    """Return the state of an output folder for a run of this `identity`: "new", "unfinished" or "finished".

    Raises SettingsDiffer where it holds a run of another identity, InputRefused where it is no run folder.
    """
    if not path.exists() or not any(path.iterdir()):
        return "new"
    facts = read_json(path / RUN)
    old = facts.get("identity") if isinstance(facts, dict) else read_json(path / "last" / "identity.json")
    if old is None and [p.name for p in path.iterdir()] == ["last"]:
        return "new"  # stopped before it had written anything of use
    if old is None:
        raise InputRefused(f"{path}: exists and is no run folder; choose another output for `histoxai {command}`")
    if difference := _first_difference(old, identity):
        name, a, b = difference
        raise SettingsDiffer(
            f"{path}: exists with {name} = {a}, asked for {b}; choose another output, or --force to start over"
        )
    return "finished" if facts else "unfinished"


def _first_difference(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, Any, Any] | None:
    asked, recorded = (provenance.flatten(provenance.plain(identity)) for identity in (new, old))
    return provenance.first_difference({k: v for k, v in _UNRECORDED.items() if k in asked} | recorded, asked)


def discard_run(path: Path) -> None:
    """Remove a run folder, to start over; raises InputRefused for a folder that holds no run."""
    if not path.exists() or not any(path.iterdir()):
        return
    facts = read_json(path / RUN)
    finished = isinstance(facts, dict) and facts.get("schema") == SCHEMA
    if not finished and read_json(path / "last" / "identity.json") is None:
        raise InputRefused(f"{path}: is no run folder; it will not be replaced")
    shutil.rmtree(path.resolve())


def training_summary(run: Run, command: str, output: Path, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the summary of a training command from its finished run; more: names of further facts to include."""
    names = ("arch", "best_epoch", "epochs", "split", "mpp", "size", *more)
    return {
        "schema": f"histoxai.{command}/1",
        "output": str(output),
        "digest": run.digest,
        **{name: run.facts[name] for name in names},
        **run.facts["metrics"],
        "training": run.facts["training"],
    }
