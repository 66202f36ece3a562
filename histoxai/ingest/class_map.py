"""The option `--class-map`: numbers in masks and the classes that they stand for."""

from __future__ import annotations

from histoxai.core.errors import UsageError


def class_map_entry(entry: str) -> tuple[int, str]:
    """Split `3=epithelial` into (3, "epithelial"); raises UsageError for anything else."""
    number, _, name = entry.partition("=")
    if not number.strip().isdecimal() or not name.strip():
        raise UsageError(f"--class-map: '{entry}' is not <number>=<name>, as in 3=epithelial")
    return int(number), name.strip()
