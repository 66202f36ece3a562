"""Parse methods as users name them: `--method ig,ig300=ig -O ig300.steps=300`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from histoxai.core.errors import UsageError
from histoxai.core.registry import resolve
from histoxai.explain.bases.method import Method

# Names of the other items of a maps store.
_RESERVED = ("predictions", "index", "masks")


def make_explainers(methods: Iterable[str], options: Iterable[str]) -> dict[str, tuple[str, Method]]:
    """(registered method, method with its options) by the name that each gets in the store.

    Raises UsageError for an unknown method, an option of a method that is not listed, or an unsuitable name.
    """
    registered = _parse_methods(methods)
    texts: dict[str, dict[str, str]] = {name: {} for name in registered}
    for text in options:
        left, equals, value = text.partition("=")
        name, dot, key = left.partition(".")
        if not equals or not dot:
            raise UsageError(f"-O {text}: expected NAME.OPTION=VALUE, such as ig.steps=300")
        if name not in texts:
            raise UsageError(f"-O {text}: '{name}' is not among the methods {', '.join(registered)}")
        texts[name][key] = value
    explainers = {}
    for name, method in registered.items():
        kind = resolve("method", method)
        explainers[name] = method, kind(parse_options(kind, texts[name], name))
    return explainers


def _parse_methods(methods: Iterable[str]) -> dict[str, str]:
    # registered method by name
    registered: dict[str, str] = {}
    for text in methods:
        name, _, method = text.partition("=")
        if not name.isidentifier() or name in _RESERVED:
            raise UsageError(f"--method {text}: '{name}' cannot be a name; use letters, digits and _")
        if name in registered:
            raise UsageError(f"--method: the name '{name}' is given twice")
        registered[name] = method or name
    return registered


def parse_options(kind: type[Method], texts: dict[str, str], name: str) -> Any:
    """Options of a method from `-O name.option=value`, converted to the types of its dataclass.

    Raises UsageError for an unknown option or a value that does not convert, listing the known options.
    """
    hints = get_type_hints(kind.Options)
    types = {f.name: hints[f.name] for f in fields(kind.Options)}
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in types:
            raise UsageError(f"-O {name}.{key}: no such option; {name} has {', '.join(types) or 'none'}")
        try:
            values[key] = _convert(text, types[key])
        except ValueError:
            expected = getattr(types[key], "__name__", types[key])
            raise UsageError(f"-O {name}.{key}={text}: expected a value of type {expected}") from None
    try:
        return kind.Options(**values)
    except UsageError as error:  # messages about bounds name command-line options
        raise UsageError(f"-O {name}.{str(error).removeprefix('--')}") from None


def _convert(text: str, expected: Any) -> Any:
    if expected == int | str:  # a number or a word
        return int(text) if text.lstrip("-").isdigit() else text
    if expected is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return expected(text)
