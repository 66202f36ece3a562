"""Parents of a store: open one and check its digest; join the rows of two stores on patch_id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from histoxai.core.errors import ParentChanged
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.storage.s3_mirror import locate_parent

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class ParentKind(Generic[Opened]):
    """One kind of parent.

    name: its key among a header's parents, and the option `--NAME` that gives its new path after a move. open: opens
    it at a path. digest: returns the digest that a child records.
    """

    name: str
    open: Callable[[Path], Opened]
    digest: Callable[[Opened], str]


def open_parent(kind: ParentKind[Opened], child: Path, header: Mapping[str, Any], moved: Path | None = None) -> Opened:
    """Open a parent of a store or run folder and check that it is the one the child was made from.

    moved: the parent's new path, None for the recorded one. Raises ParentChanged if the parent is missing or its digest
    differs from the recorded one.
    """
    recorded = header["parents"][kind.name]
    path = moved or locate_parent(child, recorded["path"])
    if not path.exists():
        raise ParentChanged(f"{path}: not there, and {child} was made from it", f"name its place with --{kind.name}")
    path = _relative_to_working_folder(path)
    parent = kind.open(path)
    digest = kind.digest(parent)
    if digest != recorded["digest"]:
        raise ParentChanged(
            f"{path}: is not the {kind.name} that {child} was made from (digest {digest}, then {recorded['digest']})",
            f"name the right one with --{kind.name}, or remake {child}",
        )
    return parent


def join_rows(patch_ids: np.ndarray, other_ids: np.ndarray) -> np.ndarray:
    """Return for each of `patch_ids` (n,) its row among `other_ids` (m,), -1 where it has none: (n,) int64."""
    row_of = {patch_id: row for row, patch_id in enumerate(other_ids.tolist())}
    return np.array([row_of.get(patch_id, -1) for patch_id in patch_ids.tolist()], np.int64)


def _relative_to_working_folder(path: Path) -> Path:
    # As a user would write it in a message or a command.
    if is_on_s3(path):
        return path
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path.resolve()
