"""Where what lies on S3-compatible storage lies on this machine: `s3://bucket/a` <-> a folder of the cache.

All rooms work on local paths. Each bucket has a mirror below the cache, cut by endpoint; `store.mirror` keeps it
fresh. What a person reads or a store records says `s3://`: relative paths between places of one endpoint are the same
in the mirror and in the bucket, and `shown` turns any other path back.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from histoxai.core.errors import InputRefused, UsageError

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_OTHERS = ("gs://", "gcs://", "az://", "abfs://", "abfss://", "s3a://")
_WORD = re.compile(r"(-o|--[a-z-]+=)?([A-Za-z0-9]+)(://.*)", re.DOTALL)
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def endpoint() -> str:
    """The address of the storage, from the environment; empty: Amazon's own."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "").rstrip("/")


def mirrors() -> str:
    """The folder, without a slash behind it, in which every bucket of this endpoint has its mirror."""
    return _mirrors(os.environ.get("HISTOXAI_CACHE"), endpoint())


@cache
def _mirrors(chosen: str | None, address: str) -> str:
    return f"{_cache(chosen)}/{blake2b(address.encode(), digest_size=6).hexdigest()}"


@cache
def _cache(chosen: str | None) -> str:
    folder = chosen or os.path.join(tempfile.gettempdir(), f"histoxai-{os.getuid()}")
    return os.path.realpath(os.path.join(folder, "s3"))


def split(word: str) -> tuple[str, str] | None:
    """What stands before a place on storage in a word of a command line, and the place; None where it has none.

    Raises UsageError for storage that we cannot read.
    """
    match = _WORD.fullmatch(word)
    if match is None:
        return None
    place = match[2].lower() + match[3]
    if place.startswith(_OTHERS):
        raise UsageError(f"{match[2]}://: only s3:// places are known; see docs/remote.md")
    return (match[1] or "", place) if place.startswith(SCHEME) else None


def mirror(url: str) -> Path:
    """The local folder that stands for `s3://bucket/prefix`.

    Raises UsageError where it is no such address; the address is not repeated, since secrets get typed into them.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    parts = [p for p in prefix.split("/") if p]
    if not _BUCKET.fullmatch(bucket) or {".", ".."} & set(parts):
        raise UsageError("s3://: expected s3://bucket/prefix; keys belong into AWS_ACCESS_KEY_ID and so on")
    if any(p.startswith(".") or p == "_part" for p in parts):
        raise UsageError("s3://: a part of the prefix begins with a dot or is _part, as what is unfinished is called")
    return Path(mirrors(), bucket, *parts)


def is_mirror(path: Path) -> bool:
    """Whether a path stands for something on storage."""
    return os.fspath(path).startswith(mirrors() + "/")


def bucket_and_key(path: Path) -> tuple[str, str]:
    """Of a path of the mirror."""
    bucket, _, key = os.fspath(path)[len(mirrors()) + 1 :].partition("/")
    return bucket, key


def shown(value: Any) -> Any:
    """A value for people, or for a store: every path of the mirror in it as its `s3://` address."""
    if isinstance(value, dict):
        return {k: shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shown(v) for v in value)
    if not isinstance(value, str) or "/s3/" not in value:
        return value
    return _paths(os.environ.get("HISTOXAI_CACHE")).sub(SCHEME, value)


@cache
def _paths(chosen: str | None) -> re.Pattern[str]:
    return re.compile(re.escape(_cache(chosen)) + "/[0-9a-f]{12}/")


def seen_from(folder: Path, path: Path) -> str:
    """How what lies in `folder` names `path`: relative, but from storage to disk, or back, by its whole address."""
    path, folder = path.resolve(), folder.resolve()
    if is_mirror(path) != is_mirror(folder):
        return str(shown(str(path)))
    return os.path.relpath(path, folder)


def found_from(folder: Path, name: str) -> Path:
    """The path that `seen_from` named."""
    return mirror(name) if name.startswith(SCHEME) else Path(folder.resolve(), name)


def require_local(path: Path, what: str) -> None:
    """Raise InputRefused where `path` is on storage and `what`, such as "run folders", has to lie on a disk."""
    if is_mirror(path):
        raise InputRefused(
            f"{shown(str(path))}: {what} are written to disk only; choose a local path and copy it after"
        )
