"""Files below a source's root: sorted, links followed once, names that can be stored as text."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import printable


def require_utf8_name(path: Path) -> None:
    """Raise InputRefused where a file's name is not UTF-8: names become ids, and ids are text."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputRefused(
            f"{printable(path)}: the name is not UTF-8 and cannot become an id; rename it (`convmv -f latin1 -t utf8`)"
        ) from error


def list_files(root: Path, suffixes: Collection[str], notes: list[str]) -> list[Path]:
    """All files with one of the suffixes (lower case, with the dot), sorted; hidden files and folders are passed over.

    A linked file is a file, also where the link is broken, so that it is missed by whoever opens it. A linked folder
    is followed unless it lies in this tree already or holds it: that would list files twice, or for ever. What is
    passed over stands in `notes`. Raises InputRefused for a folder that cannot be listed.
    """
    found: list[Path] = []
    home, seen, stack = os.path.realpath(root), set[str](), [str(root)]
    while stack:
        for entry in _entries(stack.pop()):
            if os.path.splitext(entry.name)[1].lower() in suffixes and (entry.is_symlink() or _is(entry, "file")):
                found.append(Path(entry.path))
            elif _is(entry, "dir"):
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if _inside(target, home) or _inside(home, target) or target in seen:
                        notes.append(f"{printable(entry.path)}: is a link to a folder of this tree; not followed")
                        continue
                    seen.add(target)
                stack.append(entry.path)
    return sorted(found)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputRefused(f"{printable(folder)}: cannot be listed: {error.strerror}; check its permissions") from error


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    try:
        return entry.is_dir() if kind == "dir" else entry.is_file()
    except OSError:  # a link to itself
        return False


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
