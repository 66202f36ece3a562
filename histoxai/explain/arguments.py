"""Methods as users name them: `--method ig,ig300=ig -O ig300.steps=300`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from histoxai.core.errors import UsageError
from histoxai.core.registry import names, resolve
from histoxai.explain.bases.method import Method, parse_options

# Names that other items of a maps store have.
_RESERVED = ("predictions", "index", "masks")


def make_explainers(methods: Iterable[str], options: Iterable[str]) -> dict[str, tuple[str, Method]]:
    """Registered method and explainer by the name that each has in the store.

    Raises UsageError for an unknown method, an option of a method that is not asked for, and the like.
    """
    chosen = {}
    for text in methods:
        name, _, method = text.partition("=")
        if not name.isidentifier() or name in _RESERVED:
            raise UsageError(f"--method {text}: '{name}' cannot be a name; use letters, digits and _")
        if name in chosen:
            raise UsageError(f"--method: the name '{name}' is given twice")
        chosen[name] = method or name
    given: dict[str, dict[str, str]] = {name: {} for name in chosen}
    for text in options:
        left, equals, value = text.partition("=")
        name, dot, key = left.partition(".")
        if not equals or not dot:
            raise UsageError(f"-O {text}: expected NAME.OPTION=VALUE, such as ig.steps=300")
        if name not in given:
            raise UsageError(f"-O {text}: '{name}' is not among the methods {', '.join(chosen)}")
        given[name][key] = value
    made = {}
    for name, method in chosen.items():
        kind = resolve("explainer", method)
        made[name] = method, kind(parse_options(kind, given[name], name))
    return made


def listed() -> list[dict[str, Any]]:
    """Every registered method: name, what it is, its paper, its cost in passes a patch, its options by default."""
    rows = []
    for name in names("explainer"):
        kind = resolve("explainer", name)
        what, _, source = (kind.__doc__ or "").partition("Source: ")
        options = kind.Options()
        rows.append(
            {
                "method": name,
                "what": " ".join(what.split()),
                "source": " ".join(source.split()).rstrip("."),
                "passes": kind.passes(options),
                "options": dict(vars(options)),
            }
        )
    return rows
