"""Report output folders: checked up front, written atomically."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.core.s3_paths import require_local
from histoxai.store.create import create_or_match, match
from histoxai.store.storage.files import read_json, write_atomically, write_json

_FILE_LIST = "export.json"


@dataclass(frozen=True)
class ReportRequest:
    """Output of `report` and how it is made.

    output: folder of the page. export: folder for tables, figures, methods text and, with `slides`, overlays of slides;
    its files are written anew each time. workers: processes that draw figures. force: replace a report of other
    settings. dry_run: check the inputs and write nothing. allow_partial: accept scores of only some patches.
    """

    output: Path
    export: Path | None = None
    slides: bool = True
    workers: int = 1
    force: bool = False
    dry_run: bool = False
    allow_partial: bool = False


class ReportOutput:
    """The folder of a page and its data.zarr, and optionally a folder for exported files.

    Raises InputRefused if a folder overlaps an input or holds files of another origin, which --force must not replace.
    """

    def __init__(self, output: Path, export: Path | None, inputs: Iterable[Path]) -> None:
        self.page, self.data, self.export = output / "index.html", output / "data.zarr", export
        inputs = list(inputs)
        provenance.keep_apart(output, *inputs)
        if export is not None:
            require_local(export, "exports")
            provenance.keep_apart(export, output, *inputs)
            self._previous_files = _exported_files(export)
        names = [p.name for p in output.iterdir()] if output.is_dir() else []
        if foreign := [n for n in names if n not in (self.page.name, self.data.name) and not n.startswith(".")]:
            raise InputRefused(f"{output}: holds {foreign[0]}, which no report makes; choose another output")

    def is_written(self, header: dict[str, Any]) -> bool:
        """Return whether page and numbers exist.

        Raises SettingsDiffer if they were made from other stores or with other settings.
        """
        exists = self.data.exists() and self.page.exists()
        if exists:
            match(self.data, header, [])
        return exists

    def write(self, page: str, header: dict[str, Any], arrays: dict[str, np.ndarray], progress: Progress) -> None:
        """Write the page, then its numbers: a report that has these is complete."""
        write_atomically(self.page, page.encode())
        create_or_match(self.data, header, arrays, [], force=True)
        progress.say(f"{self.page} and {self.data} written")

    def write_export(self, files: Iterable[tuple[str, bytes]], figures: int, progress: Progress) -> None:
        """Write files by their path below the export's folder, and remove those of an earlier export.

        figures: how many figures are among the files, for the progress bar.
        """
        assert self.export is not None
        progress.start("export", figures)
        written = []
        for name, data in files:
            written.append(name)
            self._write_file_list({*self._previous_files, *written})
            write_atomically(self.export / name, data)
            if name.endswith(".svg"):
                progress.advance()
        for stale in set(self._previous_files) - set(written):
            (self.export / stale).unlink(missing_ok=True)
        self._write_file_list(written)
        progress.stop()

    def _write_file_list(self, names: Iterable[str]) -> None:
        assert self.export is not None
        write_json(self.export / _FILE_LIST, {"schema": "export/1", "files": sorted(names)})


def _exported_files(folder: Path) -> list[str]:
    facts = read_json(folder / _FILE_LIST)
    listed = facts["files"] if isinstance(facts, dict) and isinstance(facts.get("files"), list) else []
    existing = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    foreign = [n for n in existing if n not in listed and n != _FILE_LIST and not Path(n).name.startswith(".")]
    if foreign:
        raise InputRefused(f"{folder}: holds {foreign[0]}, which no export wrote; choose another folder for --export")
    return [n for n in listed if n in existing]
