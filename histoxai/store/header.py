"""The header of a store, `attrs["histoxai"]` of its root: checked when it is read, and what of it changes numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoxai.core.errors import HistoxaiError, InputRefused
from histoxai.core.provenance import plain
from histoxai.core.s3_paths import is_on_s3
from histoxai.store.records import is_item_name
from histoxai.store.state import repair_hint

_TYPES = {"schema": str, "settings": dict, "parents": dict, "run": dict}


def check_header(path: Path, header: Any) -> dict[str, Any]:
    """Return a store's header as plain values; raise InputRefused if it is damaged."""
    header = plain(dict(header)) if isinstance(header, Mapping) else {}
    wrong = [k for k, t in _TYPES.items() if not isinstance(header.get(k), t)]
    names = header.get("items", [])
    if not wrong and not (isinstance(names, list) and all(map(is_item_name, names))):
        wrong = ["items"]
    wrong = wrong or [k for k, p in header["parents"].items() if not isinstance(p, dict) or "digest" not in p]
    if wrong or not re.fullmatch(r"\w+/\d+", header["schema"]) or not isinstance(header["run"].get("command"), str):
        damaged = ", ".join(wrong) or "schema, run"
        raise InputRefused(f"{path}: its zarr.json is damaged ({damaged}); {repair_hint(path)}")
    return header


def header_identity(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a header that changes numbers: schema, settings, seed and the parents' digests."""
    parents = {k: v["digest"] for k, v in header["parents"].items()}
    return {k: header.get(k) for k in ("schema", "settings", "seed")} | {"parents": parents}


class RootSnapshot:
    """The root's zarr.json as it was when a store was opened; a store that is made again has another.

    Not for stores on S3, where each refresh replaces the local file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp, self._content = self._current_stamp(), self._current_content()

    def check(self) -> None:
        """Raise HistoxaiError if the store was made again or removed.

        Called after each read: a result must not mix shards of a store and of its replacement.
        """
        if self._stamp == (now := self._current_stamp()):
            return
        if self._content != self._current_content():
            raise HistoxaiError(f"{self._path}: was made again, or removed, while it was read; run the command again")
        self._stamp = now  # its permissions were changed, say, or it was moved to another disk

    def _current_stamp(self) -> tuple[int, ...] | None:
        if is_on_s3(self._path):
            return None
        try:
            status = (self._path / "zarr.json").stat()
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns

    def _current_content(self) -> bytes:
        try:
            return b"" if is_on_s3(self._path) else (self._path / "zarr.json").read_bytes()
        except OSError:
            return b""
