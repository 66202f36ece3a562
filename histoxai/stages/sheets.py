"""Contact sheets of a patch store: what `ingest` has read, one picture a class."""

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

# Patches on one sheet: six lines of eight.
MOST = 48
_UNLABELLED = "unlabelled"


def contact_sheets(source: Path, folder: Path, progress: Progress) -> list[Path]:
    """Write `folder/<class>.png` for every class of a complete patch store; patches are chosen by hash of patch_id.

    Under a patch stand its quality numbers. Returns the files. Raises
    InputRefused where `folder` is a file or lies in the store.
    """
    check_folder(folder, source)
    patches = Patches(source)
    numbers = dict(zip(QUALITY_COLUMNS, patches.store.read("quality").T, strict=True))
    made = []
    names = [*patches.classes, _UNLABELLED]  # label -1 is the last
    files = _file_names(names)
    chosen = patches.rows("all", MOST)
    for label in np.unique(patches.label).tolist():
        rows = chosen[patches.label[chosen] == label]
        name, total = names[label], int((patches.label == label).sum())
        shown = f"{len(rows)} of {total:,} patches" if len(rows) < total else f"all {total:,} patches"
        size = f"{patches.size[1]} x {patches.size[0]} px" + (f" at {patches.mpp:g} µm/px" if patches.mpp else "")
        strips = [
            Strip(str(patches.patch_id[row]), [Tile.of(patches.read([row])[0], _numbers(numbers, row))])
            for row in rows.tolist()
        ]
        file = folder / f"{files[label]}.png"
        title = f"{name} in {source.name}"
        write_atomically(file, draw_sheet(title, f"{shown}, {size}", [Section("", [Band("", "", strips)])]))
        made.append(file)
    progress.say(f"{folder}: {len(made)} contact sheets")
    return made


def check_folder(folder: Path, *inputs: Path) -> None:
    """Raise InputRefused unless contact sheets may be written into a folder: not into a source or a store."""
    if folder.exists() and not folder.is_dir():
        raise InputRefused(f"{folder}: is a file; contact sheets go into a folder, choose another name")
    for path in inputs:
        if folder.resolve().is_relative_to(path.resolve()):
            raise InputRefused(f"{folder}: is or lies in {path}, which sheets are no part of; choose a folder outside")


def _numbers(quality: dict[str, np.ndarray], row: int) -> str:
    # two short lines: more would not be readable under a tile
    blur, pen, background = (quality[name][row] for name in ("blur", "pen", "background"))
    return f"blur {blur:.2f}  pen {pen:.2f}\nbackground {background:.2f}"


def _file_names(names: list[str]) -> list[str]:
    # one for each: short, and different also where a file system takes A for a
    made: list[str] = []
    for name in names:
        # what is no letter of any script, digit, dot or dash could mean something to a file system
        plain = re.sub(r"[^\w.-]", "_", name).strip(".")[:60] or "_"
        taken = {m.casefold() for m in made}
        free = (f"{plain}-{k}" if k > 1 else plain for k in itertools.count(1))
        made.append(next(f for f in free if f.casefold() not in taken))
    return made
