"""List the files of a source: sorted, every linked file once, with names that can become ids."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from histoxai.core.errors import InputRefused
from histoxai.core.safe_text import escape_text

# Files that lie beside images without being any.
_DOCUMENTS = {
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".geojson", ".yaml", ".yml", ".html", ".pdf", ".log", ".ini",
    ".db", ".xls", ".xlsx", ".doc", ".docx", ".py", ".ipynb", ".sh", ".md5", ".sha256",
}  # fmt: skip


def require_utf8_name(path: Path) -> None:
    """Raise InputRefused where a file's name is not read as UTF-8: names become ids, and ids are text."""
    try:
        text = os.fsencode(path).decode()
    except UnicodeError as error:
        raise InputRefused(
            f"{escape_text(path)}: the name is not UTF-8 and cannot become an id; "
            "rename it (`convmv -f latin1 -t utf8`)"
        ) from error
    if text != str(path):
        raise InputRefused(
            f"{escape_text(path)}: the name is UTF-8, but this Python reads names as {sys.getfilesystemencoding()}; "
            "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )


def path_in_source(root: Path, path: Path) -> str:
    """Return a path below the source's root, or its name where it is the source itself, safe to print."""
    return escape_text(path.name if path == root else path.relative_to(root).as_posix())


def list_images(root: Path, suffixes: Collection[str], notes: list[str]) -> list[Path]:
    """List all files as `list_files`; `notes` gets a sentence that counts files whose endings are not read."""
    others: list[Path] = []
    files = list_files(root, suffixes, notes, others)
    counts = Counter(path.suffix.lower() or "none" for path in others)
    if others:
        kinds = ", ".join(f"{n} {escape_text(suffix)}" for suffix, n in sorted(counts.items()))
        example = escape_text(min(others).relative_to(root).as_posix())
        notes.append(f"left out: {len(others)} files with endings that are not read: {kinds} ({example}, say)")
    return files


def list_files(root: Path, suffixes: Collection[str], notes: list[str], others: list[Path] | None = None) -> list[Path]:
    """List all files below `root` with one of the suffixes (lower case, with the dot), sorted.

    Hidden files and folders are left out. A linked file is listed even where the link is broken, so that opening it
    fails. A linked folder is followed unless it lies in this tree or contains it, which would list files twice or for
    ever; `notes` gets a sentence for each that is not followed. `others` gets all files with other suffixes that may
    hold images. Raises InputRefused for a folder that cannot be listed.
    """
    files: list[Path] = []
    top, linked, folders = os.path.realpath(root), set[str](), [str(root)]
    while folders:
        for entry in _entries(folders.pop()):
            if os.path.splitext(entry.name)[1].lower() in suffixes and (entry.is_symlink() or _holds(entry.is_file)):
                files.append(Path(entry.path))
            elif _holds(entry.is_dir):
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if _is_inside(target, top) or _is_inside(top, target) or target in linked:
                        notes.append(f"{escape_text(entry.path)}: is a link to a folder of this tree; not followed")
                        continue
                    linked.add(target)
                folders.append(entry.path)
            elif others is not None and os.path.splitext(entry.name)[1].lower() not in _DOCUMENTS:
                others.append(Path(entry.path))
    return sorted(files)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputRefused(
            f"{escape_text(folder)}: cannot be listed: {error.strerror}; check its permissions"
        ) from error


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
