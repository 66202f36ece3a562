"""Maps stores as explainers wrote them: which methods are there, their raw arrays, and how to render them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histoxai.core.errors import Damaged
from histoxai.core.registry import names, resolve
from histoxai.explain.bases.method import Method
from histoxai.explain.bases.null_model import NullModel
from histoxai.store.shards import Store

_NO_METHODS = ("index", "predictions")


@dataclass(frozen=True)
class StoredMethod:
    """A method of a maps store: its name there, the registered method, and an explainer with its options.

    null: whether its maps cannot know what the classifier looks at.
    """

    name: str
    method: str
    explainer: Method
    parts: tuple[str, ...]
    null: bool = False

    def take(self, maps: Store, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Raw arrays of some rows, by part ("" is the method's own array)."""
        return {p: maps.take(raw_path(self.name, p), rows) for p in self.parts}

    def relevance(self, raw: dict[str, np.ndarray], i: int, size: tuple[int, int], sign: str) -> np.ndarray:
        """The evidence (H, W) float32 of one sign of the i-th of the rows read."""
        return self.explainer.relevance({k: v[i] for k, v in raw.items()}, size, sign)

    def signed(self, raw: dict[str, np.ndarray], i: int, size: tuple[int, int]) -> np.ndarray:
        """The signed evidence (H, W) float32 of the i-th of the rows read, channels added up."""
        return self.explainer.signed({k: v[i] for k, v in raw.items()}, size).sum(axis=0)

    def plane(self, raw: dict[str, np.ndarray], i: int, size: tuple[int, int], constant: float = 0.0) -> np.ndarray:
        """The rendered plane (H, W) float64 of the i-th of the rows read."""
        return self.explainer.render({k: v[i] for k, v in raw.items()}, size, constant)


def raw_path(name: str, part: str) -> str:
    """Where a raw array lies in a maps store."""
    return f"attributions/{name}/{part}" if part else f"attributions/{name}"


def checks_path(name: str) -> str:
    """Where the checks of a method's maps lie: (m, checks) float32, NaN where there is none; `columns` names them."""
    return f"checks/{name}"


def stored_methods(maps: Store) -> list[StoredMethod]:
    """All methods of a maps store, in the registry's order, then by name."""
    known = names("method")
    found = []
    for name, facts in maps.completeness().items():
        if name in _NO_METHODS:
            continue
        if not facts["what"]:
            raise Damaged(
                f"{maps.path}: _done/{name}/item.json is damaged; run the `histoxai explain` command that made "
                f"'{name}' again"
            )
        method, options = facts["what"]["method"], facts["what"]["options"]
        kind = resolve("method", method)
        explainer = kind(kind.Options(**options))
        root = f"attributions/{name}"
        parts = tuple(p.removeprefix(root).removeprefix("/") for p in maps.arrays(root))
        null = issubclass(kind, NullModel) or bool(facts["what"].get("random_weights"))
        found.append(StoredMethod(name, method, explainer, parts, null))
    return sorted(found, key=lambda m: (known.index(m.method), m.name))


def used_items(methods: list[StoredMethod]) -> list[str]:
    """The items of a maps store that these methods rest on: its digest over them outlives methods added later."""
    return [*_NO_METHODS, *[m.name for m in methods]]
