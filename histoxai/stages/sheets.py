"""Contact sheets of a patch store: one image a class that shows some patches which `ingest` has read."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np

from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.ingest.quality import QUALITY_COLUMNS
from histoxai.report.contact_sheet import Band, Section, Strip, Tile, draw_sheet
from histoxai.store.patches import Patches
from histoxai.store.storage.files import write_atomically

MOST = 48  # patches on one sheet: six lines of eight
_UNLABELLED = "unlabelled"


def contact_sheets(source: Path, folder: Path, progress: Progress) -> list[Path]:
    """Write `folder/<class>.png` for every class of a complete patch store; return the files.

    Patches are selected by the hash of their patch_id, and shown with their quality. Raises InputRefused where `folder`
    is a file or lies in the store.
    """
    check_folder(folder, source)
    patches = Patches(source)
    names = [*patches.classes, _UNLABELLED]  # label -1 is the last
    file_names = _file_names(names)
    selected = patches.rows("all", MOST)
    files = []
    for label in np.unique(patches.label).tolist():
        file = folder / f"{file_names[label]}.png"
        rows = selected[patches.label[selected] == label]
        sections = [Section("", [Band("", "", _strips(patches, rows))])]
        title, subtitle = f"{names[label]} in {source.name}", _subtitle(patches, label, len(rows))
        write_atomically(file, draw_sheet(title, subtitle, sections))
        files.append(file)
    progress.say(f"{folder}: {len(files)} contact sheets")
    return files


def _strips(patches: Patches, rows: np.ndarray) -> list[Strip]:
    quality = dict(zip(QUALITY_COLUMNS, patches.store.read("quality").T, strict=True))
    return [
        Strip(str(patches.patch_id[row]), [Tile.of(patches.read([row])[0], _quality_text(quality, row))])
        for row in rows.tolist()
    ]


def _subtitle(patches: Patches, label: int, shown: int) -> str:
    total = int((patches.label == label).sum())
    counts = f"{shown} of {total:,} patches" if shown < total else f"all {total:,} patches"
    scale = f" at {patches.mpp:g} µm/px" if patches.mpp else ""
    return f"{counts}, {patches.size[1]} x {patches.size[0]} px{scale}"


def check_folder(folder: Path, *inputs: Path) -> None:
    """Raise InputRefused unless contact sheets may be written into a folder: not into a source or a store."""
    if folder.exists() and not folder.is_dir():
        raise InputRefused(f"{folder}: is a file; contact sheets go into a folder, choose another name")
    for path in inputs:
        if folder.resolve().is_relative_to(path.resolve()):
            raise InputRefused(
                f"{folder}: is or lies in {path}, where contact sheets are not allowed; choose a folder outside"
            )


def _quality_text(quality: dict[str, np.ndarray], row: int) -> str:
    # two short lines: more could not be read under a tile
    blur, pen, background = (quality[name][row] for name in ("blur", "pen", "background"))
    return f"blur {blur:.2f}  pen {pen:.2f}\nbackground {background:.2f}"


def _file_names(names: list[str]) -> list[str]:
    """Return a short file name for each class, different also on file systems that ignore case."""
    file_names: list[str] = []
    for name in names:
        # anything but letters of any script, digits, dots and dashes may have a meaning to a file system
        plain = re.sub(r"[^\w.-]", "_", name).strip(".")[:60] or "_"
        taken = {f.casefold() for f in file_names}
        candidates = (f"{plain}-{k}" if k > 1 else plain for k in itertools.count(1))
        file_names.append(next(f for f in candidates if f.casefold() not in taken))
    return file_names
