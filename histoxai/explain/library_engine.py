"""Maps that the methods' own libraries compute, called as their authors call them: `explain --engine library`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata

from histoxai.core.errors import UsageError
from histoxai.explain.bases.method import Method


def require_libraries(explainers: Mapping[str, Method]) -> None:
    """Raise UsageError if no library computes one of these methods with its options."""
    reasons = [f"{name} ({why})" for name, explainer in explainers.items() if (why := explainer.why_no_library())]
    if reasons:
        raise UsageError(
            f"--engine library: cannot compute {', '.join(reasons)}; leave out what has no library, and add it to the "
            "same store with --engine histoxai"
        )


def library_version(explainer: Method) -> str:
    """The package that computes a method under `--engine library`, and its version, such as "captum 0.8.0"."""
    package = explainer.library_package
    try:
        return f"{package} {metadata.version(package)}"
    except (metadata.PackageNotFoundError, ValueError):  # of a plugin that does not name it
        return package or "a library"
