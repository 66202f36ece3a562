"""The interface of a source format, for its author.

A format is one class in one file. It is registered by name: in `core/registry.py`, or by an installed package through
the entry point `histoxai.formats`. `ingest` uses three things of it:

- `recognises(root)`, a static method: a short reason why `root` (a file or a folder) is of this format, or None. It is
  asked for every source when `--format` is auto, so it looks at names and at most one header, and raises nothing.
- `Format(root, settings)`: lists all patches in `self.index`, a `PatchIndex`. It reads headers and at most a few masks,
  never all pixels.
  It raises InputRefused for a source that cannot be used, and with `settings.skip_bad` leaves bad files out
  (`PatchIndex.skipping_bad`). It raises InputRefused or UsageError for settings that it has no use for
  (`require_only_settings`): a setting that is ignored would mislead.
- `read(start, stop)`: the patches of the rows [start, stop) of the index: images (n, H, W, 3) uint8 RGB and targets
  (n, 2, H, W) uint8 in {0, 1}, the planes tumor and non-tumor, or None where the source has no masks. Every call gives
  the same bytes. It is called from several threads at once, and the object is made again in every worker process. It
  raises InputRefused for pixels that cannot be decoded.

An id (`patch_id`) is unique and the same on every machine: a path below the source (`identifier` makes it), `#`, and a
row or tile number. A group names the scan, or whatever else must stay on one side of a split. Where nothing is known
every image is a group of its own. `PatchIndex.note_groups` says so, and wherever a group is a guess. Every error
message names the file, says what is wrong, and what to do.

Formats never import each other. What several of them use lies beside this folder: `arrays` (numbers in files),
`images` and `tiles` (image files), `targets` (mask values), `annotations` (slides).
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.provenance import file_checksum, fingerprint
from histoxai.core.safe_text import escape_text
from histoxai.ingest.file_listing import require_utf8_name
from histoxai.settings import Ingest

MAX_CHECKED = 64 << 20  # bytes of small files that are read for the digest alone
_BLOCK = 1 << 16  # values of a column that become text at once


@dataclass
class PatchIndex:
    """All patches of a source, in order, and what is known of each without reading pixels.

    classes: class names. mpp: micrometres per pixel, or None. size: height and width in px.
    label: index into `classes`, -1 for none. group: scan of each patch. split: 0 none, 1 train, 2 validation, 3 test.
    files: (path below the root, bytes) of every file that is read.
    notes: sentences for the user.
    extra: more columns of one value a patch (int, float or str), stored under their names. Some names have a meaning:
    `patient`, `site`, `tissue`; `frame` (name of a coordinate system, such as a slide), `x`, `y` (upper-left corner in
    it, px) and `extent` (side of the tile in it, px), from which overlapping tiles are found.
    facts: more entries for the store's settings. left_out: (file or patch, reason) of what `skip_bad` left out.
    tissue_checked: the format has left out patches without tissue itself.
    contents: (path below the root -> checksum) of small files that say what the patches are.
    """

    classes: list[str]
    mpp: float | None
    size: tuple[int, int]
    label: list[int] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    patch_id: list[str] = field(default_factory=list)
    split: list[int] = field(default_factory=list)
    files: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_targets: bool = False
    extra: dict[str, list[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    tissue_checked: bool = False
    contents: dict[str, str] = field(default_factory=dict)
    _checked_bytes: int = field(default=0, init=False, repr=False)
    _sized_by: Path | None = field(default=None, init=False, repr=False)
    _group_notes: list[str] = field(default_factory=list, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.label)

    def add_patches(
        self, ids: Sequence[str], group: str | Sequence[str], label: int | Sequence[int] = -1, split: int = 0
    ) -> None:
        """Append patches; `group` and `label` are one value for all of them, or one for each."""
        n = len(ids)
        self.patch_id += ids
        self.group += [group] * n if isinstance(group, str) else group
        self.label += [label] * n if isinstance(label, int) else label
        self.split += [split] * n

    def add_positions(self, frame: str, x: Sequence[int], y: Sequence[int], extent: float) -> None:
        """Append the positions of tiles that were just added: upper-left corners and side in px of `frame`."""
        n = len(x)
        for name, values in (("frame", [frame] * n), ("x", x), ("y", y), ("extent", [extent] * n)):
            self.extra.setdefault(name, []).extend(values)

    def add_file(self, name: str, path: Path) -> None:
        """Record a file that patches are read from; `name` is its path below the root."""
        self.files.append((name, path.stat().st_size))

    def add_contents(self, name: str, path: Path) -> None:
        """Let the content of a small file count in the digest, up to 64 MB of all such files together."""
        if (total := self._checked_bytes + path.stat().st_size) <= MAX_CHECKED:
            self._checked_bytes = total
            self.contents[name] = file_checksum(path)

    def require_size(self, path: Path, size: tuple[int, int]) -> None:
        """Raise InputRefused where height and width of patches are not those of the patches listed before."""
        if self._sized_by is not None and size != self.size:
            h, w = self.size
            raise InputRefused(
                f"{path}: patches are {size[1]} x {size[0]} px but {self._sized_by} has {w} x {h}; all patches of a "
                "store have one size: resize or tile them first (image files are tiled by --size)"
            )

    def set_size(self, path: Path, size: tuple[int, int]) -> None:
        """Set the height and width of all patches; `path` is the file that has them."""
        self.size, self._sized_by = size, self._sized_by or path

    def note_groups(self, note: str) -> None:
        """Add a note on how patches were grouped; it is replaced where a table names the patients instead."""
        self._group_notes.append(note)
        self.notes.append(note)

    def replace_group_notes(self, note: str) -> None:
        """Replace the notes on how patches were grouped by another one."""
        self.notes = [n for n in self.notes if n not in self._group_notes]
        self._group_notes = []
        self.note_groups(note)

    def leave_out(self, name: str, error: InputRefused, settings: Ingest) -> None:
        """Record a file that cannot be used (`name`: its path below the root); raise the error unless `skip_bad`."""
        if not settings.skip_bad:
            raise error
        self.left_out.append((escape_text(name), str(error)))

    @contextmanager
    def skipping_bad(self, name: str, settings: Ingest) -> Iterator[None]:
        """Leave out the file `name` where the body raises InputRefused; raise it unless `skip_bad`."""
        try:
            yield
        except InputRefused as error:
            self.leave_out(name, error, settings)

    @property
    def digest(self) -> str:
        """Fingerprint of the source.

        It covers the names and sizes of all files, the contents of small ones, and every column. Images are not read
        for it. Labels and masks that are corrected have the same size as before, but another digest.
        """
        columns: dict[str, list[Any]] = {"label": self.label, "group": self.group, "split": self.split, **self.extra}
        checksums = {name: _checksum_of(values) for name, values in columns.items()}
        return fingerprint([sorted(self.files), sorted(self.contents.items()), checksums])


def _checksum_of(values: list[Any]) -> str:
    state = blake2b(digest_size=16)
    for start in range(0, len(values), _BLOCK):  # in blocks, so that millions of values never become one text
        state.update("".join(f"{value!r}\n" for value in values[start : start + _BLOCK]).encode())
    return state.hexdigest()


class PatchSource(Protocol):
    """Patches that are listed in an index and read by row."""

    index: PatchIndex

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return images (n, H, W, 3) uint8 and targets (n, 2, H, W) uint8 in {0, 1}, or None without masks."""


class SourceFormat(PatchSource, Protocol):
    """One source format; the module's docstring says what it has to give."""

    @staticmethod
    def recognises(root: Path) -> str | None: ...

    def __init__(self, root: Path, settings: Ingest) -> None: ...


def identifier(*parts: str) -> str:
    """Join the parts of a path below the source's root for an id: forward slashes, Unicode NFC."""
    return unicodedata.normalize("NFC", "/".join(parts))


def clean_name(name: str) -> str:
    """Return the name of a class or scan as it counts: Unicode NFC, without spaces around it."""
    return unicodedata.normalize("NFC", name).strip()


def require_folder(root: Path) -> None:
    """Raise InputRefused unless `root` is a folder with something in it."""
    require_source(root)
    if not root.is_dir():
        raise InputRefused(f"{root}: is a file; expected a folder (see `histoxai ingest --help`)")


def require_source(root: Path) -> None:
    """Raise InputRefused unless `root` is a file, or a folder with something in it."""
    require_utf8_name(root)
    if not root.exists():
        raise InputRefused(f"{root}: no such folder or file; check the path")
    if root.is_dir() and not any(root.iterdir()):
        raise InputRefused(f"{root}: is empty; there is nothing to ingest")
    if not root.is_dir() and not root.is_file():
        raise InputRefused(f"{root}: is neither a folder nor a file; name one of them")


# Settings that some formats use. All other settings of `ingest` are used by the stage, for every format.
FORMAT_SETTINGS = (
    "size",
    "overlap",
    "class_map",
    "images",
    "masks",
    "labels",
    "tumor",
    "non_tumor",
    "partition",
    "magnification",
    "mask_threshold",
    "ignore_value",
    "annotations",
    "cells",
    "min_overlap",
)

# Formats that use a setting, where another one may have been recognised by mistake.
_USED_BY = dict.fromkeys(("images", "masks"), "pairs (images beside masks), hdf5, zarr and npy") | dict.fromkeys(
    ("class_map", "tumor", "non_tumor"), "pairs (images beside masks), hdf5, zarr, npy and slide"
)


def require_only_settings(root: Path, settings: Ingest, name: str, *used: str) -> None:
    """Raise InputRefused where a setting is given that format `name` does not use; `used` are those that it does."""
    if "size" in used:
        used = (*used, "overlap")
    for setting in FORMAT_SETTINGS:
        if setting not in used and getattr(settings, setting) != getattr(Ingest(), setting):
            flag = f"--{setting.replace('_', '-')}"
            others = f" of those that use it: {_USED_BY[setting]}" if setting in _USED_BY else ""
            raise InputRefused(
                f"{root}: {flag} means nothing to sources of format '{name}'; leave it out, or name another --format"
                + others
            )


def require_unique_ids(root: Path, index: PatchIndex) -> None:
    """Raise InputRefused where two patches have one id, and where there is no patch at all."""
    if not index.label:
        raise InputRefused(f"{root}: nothing that can be used is left; without --skip-bad the first reason is shown")
    if len(set(index.patch_id)) < len(index.patch_id):
        repeated = next(a for a, b in itertools.pairwise(sorted(index.patch_id)) if a == b)
        raise InputRefused(f"{root}: two files would both be patch '{repeated}'; rename one of them")
