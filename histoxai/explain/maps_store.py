"""Read maps stores: their methods, raw arrays and paths, and how to render them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoxai.core.errors import Damaged, InputRefused
from histoxai.core.registry import OWN, names, origin, resolve
from histoxai.explain.bases.method import Method
from histoxai.explain.bases.null_model import NullModel
from histoxai.store.shards import Store

# Items of a maps store that are not methods.
_NO_METHODS = ("index", "predictions")


@dataclass(frozen=True)
class StoredMethod:
    """A method of a maps store.

    name: its name in the store. method: the registered method. explainer: that method with the options it ran with.
    parts: its raw arrays ("" is the method's own). null: whether its maps cannot know what the classifier looks at.
    library: the library that made its maps, such as "captum 0.8.0"; empty for histoxai's engine.
    """

    name: str
    method: str
    explainer: Method
    parts: tuple[str, ...]
    null: bool = False
    library: str = ""

    def take(self, maps: Store, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Raw arrays of some rows, by part."""
        return {p: maps.take(raw_path(self.name, p), rows) for p in self.parts}

    def relevance(self, raw: dict[str, np.ndarray], i: int, size: tuple[int, int], sign: str) -> np.ndarray:
        """Evidence (H, W) float32 of one sign; i: number of the patch among the rows of `raw`."""
        return self.explainer.relevance({k: v[i] for k, v in raw.items()}, size, sign)

    def signed(self, raw: dict[str, np.ndarray], i: int, size: tuple[int, int]) -> np.ndarray:
        """Signed evidence (H, W) float32, channels summed; i: number of the patch among the rows of `raw`."""
        return self.explainer.signed({k: v[i] for k, v in raw.items()}, size).sum(axis=0)

    def plane(self, raw: dict[str, np.ndarray], i: int, size: tuple[int, int], constant: float = 0.0) -> np.ndarray:
        """Rendered plane (H, W) float64 in 0..1; i: number of the patch among the rows of `raw`."""
        return self.explainer.render({k: v[i] for k, v in raw.items()}, size, constant)


def raw_path(name: str, part: str) -> str:
    """Path of a raw array in a maps store."""
    return f"attributions/{name}/{part}" if part else f"attributions/{name}"


def checks_path(name: str) -> str:
    """Path of the checks of a method's maps: (m, checks) float32, NaN if a check has no value; `columns` names them."""
    return f"checks/{name}"


def stored_methods(maps: Store) -> list[StoredMethod]:
    """All methods of a maps store, in the registry's order, then by name.

    Raises Damaged if the facts of a method are lost, InputRefused if a plugin's method is not installed.
    """
    order = names("method")
    methods = [
        _stored_method(maps, name, item["what"])
        for name, item in maps.completeness().items()
        if name not in _NO_METHODS
    ]
    return sorted(methods, key=lambda m: (order.index(m.method), m.name))


def _stored_method(maps: Store, name: str, facts: dict[str, Any]) -> StoredMethod:
    if not facts:
        raise Damaged(
            f"{maps.path}: _done/{name}/item.json is damaged; run the `histoxai explain` command that made "
            f"'{name}' again"
        )
    method, package = facts["method"], facts.get("package")
    if package and method not in names("method"):
        raise InputRefused(
            f"{maps.path}: '{name}' was made with the method '{method}' of the package {package}, which is "
            "not installed; install it"
        )
    kind = resolve("method", method)
    if _package_name(package or OWN) != _package_name(installed := origin("method", method)):
        raise InputRefused(
            f"{maps.path}: '{name}' was made with the method '{method}' of {package or OWN}; here '{method}' is of "
            f"{installed}: uninstall that package, or install the one that was used"
        )
    root = raw_path(name, "")
    parts = tuple(path.removeprefix(root).removeprefix("/") for path in maps.arrays(root))
    null = issubclass(kind, NullModel) or bool(facts.get("random_weights"))
    explainer = kind(kind.Options(**facts["options"]))
    return StoredMethod(name, method, explainer, parts, null, str(facts.get("library", "")))


def _package_name(package: str) -> str:
    # of "package version"
    return package.partition(" ")[0]


def used_items(methods: list[StoredMethod]) -> list[str]:
    """Items of a maps store that these methods depend on; a digest over them does not change if methods are added."""
    return [*_NO_METHODS, *[m.name for m in methods]]
