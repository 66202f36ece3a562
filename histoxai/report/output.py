"""Where pages and exports go: looked at before any work, and written whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.core.s3_paths import require_local
from histoxai.store.create import create_or_match, match
from histoxai.store.storage.files import read_json, write_atomically, write_json

_LIST = "export.json"  # in an export's folder: what is of it


class Publication:
    """A page with its data.zarr in one folder, and an export in another, where one is asked for.

    Raises InputRefused for folders that overlap an input, or hold what neither writes; whatever --force may replace
    must be a report.
    """

    def __init__(self, output: Path, export: Path | None, inputs: Iterable[Path]) -> None:
        self.page, self.data, self.export = output / "index.html", output / "data.zarr", export
        inputs = list(inputs)
        provenance.keep_apart(output, *inputs)
        if export is not None:
            require_local(export, "exports")
            provenance.keep_apart(export, output, *inputs)
            self._exported = _exported(export)
        names = [p.name for p in output.iterdir()] if output.is_dir() else []
        if strange := [n for n in names if n not in (self.page.name, self.data.name) and not n.startswith(".")]:
            raise InputRefused(f"{output}: holds {strange[0]}, which no report makes; choose another output")

    def there(self, header: dict[str, Any]) -> bool:
        """Whether page and numbers are written.

        Raises SettingsDiffer where they were made of others, or in another way.
        """
        found = self.data.exists() and self.page.exists()
        if found:
            match(self.data, header, [])
        return found

    def write(self, page: str, header: dict[str, Any], arrays: dict[str, np.ndarray], progress: Progress) -> None:
        """The page, then its numbers: a report that has these is complete."""
        write_atomically(self.page, page.encode())
        create_or_match(self.data, header, arrays, [], force=True)
        progress.say(f"{self.page} and {self.data} written")

    def write_export(self, files: Iterable[tuple[str, bytes]], total: int, progress: Progress) -> None:
        """Files by path below the export's folder; those of an earlier export that are not among them are removed.

        total: figures among them.
        """
        assert self.export is not None
        progress.start("export", total)
        written = []
        for name, data in files:
            written.append(name)
            self._list({*self._exported, *written})
            write_atomically(self.export / name, data)
            if name.endswith(".svg"):
                progress.advance()
        for stale in set(self._exported) - set(written):
            (self.export / stale).unlink(missing_ok=True)
        self._list(written)
        progress.stop()

    def _list(self, names: Iterable[str]) -> None:
        assert self.export is not None
        write_json(self.export / _LIST, {"schema": "export/1", "files": sorted(names)})


def _exported(folder: Path) -> list[str]:
    facts = read_json(folder / _LIST)
    known = facts["files"] if isinstance(facts, dict) and isinstance(facts.get("files"), list) else []
    there = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
    strange = [n for n in there if n not in known and n != _LIST and not Path(n).name.startswith(".")]
    if strange:
        raise InputRefused(f"{folder}: holds {strange[0]}, which no export wrote; choose another folder for --export")
    return [n for n in known if n in there]
