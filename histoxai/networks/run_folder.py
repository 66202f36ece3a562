"""Run folders as records: what `run.json` says, whether it is finished, whether it is the one that is meant.

Without torch, so that looking at a run folder takes no time; `checkpoint` has the weights.
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
_KINDS = {
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
RUN = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run folder: its facts, and the digest of recipe and weights."""

    path: Path
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        keys = ("kind", "arch", "recipe", "classes", "size", "normalisation", "weights")
        return provenance.fingerprint({k: self.facts[k] for k in keys})

    @property
    def mpp(self) -> float | None:
        return self.facts["mpp"]

    @property
    def remedy(self) -> str:
        """What to do about a folder that is damaged."""
        return f"train again: `{with_force(with_output(str(self.facts['run'].get('command')), self.path))}`"


def run_parent(name: str, kind: str) -> ParentKind[Run]:
    """Return how to open a run folder that a store names as its parent; name: "model" or "segmenter"."""
    return ParentKind(name, lambda path: open_run(path, kind), lambda run: run.digest)


def open_run(path: Path, kind: str | None = None) -> Run:
    """Open a finished run folder of a kind ("classifier" or "segmenter"; None: of any).

    Raises InputRefused where it is not one, or is not finished.
    """
    command = "train-seg" if kind == "segmenter" else "train-cls"
    if not path.is_dir():
        raise InputRefused(f"{path}: no such run folder; make it with `histoxai {command}`")
    facts = read_json(path / RUN)
    if isinstance(facts, dict) and facts.get("schema") == SCHEMA:
        if not has_valid_checksum(facts):
            raise InputRefused(f"{path / RUN}: is not what was written (its checksum differs); train again")
        if wrong := [k for k, t in _KINDS.items() if not isinstance(facts.get(k), t)]:
            raise InputRefused(f"{path / RUN}: is damaged ({', '.join(wrong)}); train again")
    else:
        state = "training has not finished; run it again to go on" if (path / "last").exists() else "not a run folder"
        raise InputRefused(f"{path}: has no {RUN} of schema {SCHEMA} ({state}: `histoxai {command}`)")
    if kind is not None and facts["kind"] != kind:
        raise InputRefused(f"{path}: holds a {facts['kind']}; expected a {kind}, as `histoxai {command}` makes it")
    return Run(path, facts)


def match(path: Path, identity: dict[str, Any], command: str) -> str:
    """What an output folder is: "new", "unfinished" (go on) or "finished", for the settings in `identity`.

    Raises SettingsDiffer where it was made with others, InputRefused where it is something else.
    """
    if not path.exists() or not any(path.iterdir()):
        return "new"
    facts = read_json(path / RUN)
    old = facts.get("identity") if isinstance(facts, dict) else read_json(path / "last" / "identity.json")
    if old is None and [p.name for p in path.iterdir()] == ["last"]:
        return "new"  # stopped before it had written anything of use
    if old is None:
        raise InputRefused(f"{path}: exists and is no run folder; choose another output for `histoxai {command}`")
    if difference := provenance.first_difference(old, identity):
        name, a, b = difference
        raise SettingsDiffer(
            f"{path}: exists with {name} = {a}, asked for {b}; choose another output, or --force to start over"
        )
    return "finished" if facts else "unfinished"


def discard_run(path: Path) -> None:
    """Remove a run folder, to start over.

    Raises InputRefused for a folder with anything else in it.
    """
    if not path.exists() or not any(path.iterdir()):
        return
    facts = read_json(path / RUN)
    ours = isinstance(facts, dict) and facts.get("schema") == SCHEMA
    if not ours and read_json(path / "last" / "identity.json") is None:
        raise InputRefused(f"{path}: is no run folder; it will not be replaced")
    shutil.rmtree(path.resolve())
