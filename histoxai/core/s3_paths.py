"""Map `s3://bucket/prefix` to a local folder of the cache and back.

All code works on local paths. Each bucket has a mirror folder in the cache, one per endpoint; `store.storage.s3_mirror`
keeps it up to date. Messages and stores say `s3://`: relative paths between locations of one endpoint are the same in
mirror and bucket, and `with_s3_urls` converts all other paths.
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
_UNSUPPORTED = ("gs://", "gcs://", "az://", "abfs://", "abfss://", "s3a://")
_WORD = re.compile(r"(-o|--[a-z-]+=)?([A-Za-z0-9]+)(://.*)", re.DOTALL)
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def endpoint() -> str:
    """Return the storage's address from the environment; empty for Amazon S3."""
    return next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), "").rstrip("/")


def mirror_root() -> str:
    """Return the folder that holds the mirrors of this endpoint's buckets, without a trailing slash."""
    return _mirror_root(os.environ.get("HISTOXAI_CACHE"), endpoint())


@cache
def _mirror_root(cache_folder: str | None, address: str) -> str:
    return f"{_cache(cache_folder)}/{blake2b(address.encode(), digest_size=6).hexdigest()}"


@cache
def _cache(cache_folder: str | None) -> str:
    folder = cache_folder or os.path.join(tempfile.gettempdir(), f"histoxai-{os.getuid()}")
    return os.path.realpath(os.path.join(folder, "s3"))


def split_argument(word: str) -> tuple[str, str] | None:
    """Split a command-line word such as `--masks=s3://b/m` into ("--masks=", "s3://b/m"); None without an S3 URL.

    Raises UsageError for storage of another kind, such as gs://.
    """
    match = _WORD.fullmatch(word)
    if match is None:
        return None
    url = match[2].lower() + match[3]
    if url.startswith(_UNSUPPORTED):
        raise UsageError(f"{match[2]}://: only s3:// locations are supported; see docs/remote.md")
    return (match[1] or "", url) if url.startswith(SCHEME) else None


def mirror_path(url: str) -> Path:
    """Return the local mirror path of `s3://bucket/prefix`.

    Raises UsageError for anything else. The message does not repeat the URL, which may contain secrets.
    """
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    parts = [p for p in prefix.split("/") if p]
    if not _BUCKET.fullmatch(bucket) or {".", ".."} & set(parts):
        raise UsageError("s3://: expected s3://bucket/prefix; keys belong into AWS_ACCESS_KEY_ID and so on")
    if any(p.startswith(".") or p == "_part" for p in parts):
        raise UsageError(
            "s3://: a part of the prefix begins with a dot or is _part, which are names of unfinished files; "
            "choose another prefix"
        )
    return Path(mirror_root(), bucket, *parts)


def is_on_s3(path: Path) -> bool:
    """Return whether a local path lies in a mirror, and so stands for an object or folder on S3."""
    return os.fspath(path).startswith(mirror_root() + "/")


def bucket_and_key(path: Path) -> tuple[str, str]:
    """Return the bucket and the object key of a path in a mirror."""
    bucket, _, key = os.fspath(path)[len(mirror_root()) + 1 :].partition("/")
    return bucket, key


def with_s3_urls(value: Any) -> Any:
    """Replace mirror paths by `s3://` URLs in all strings of nested dicts, lists and tuples."""
    if isinstance(value, dict):
        return {k: with_s3_urls(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_s3_urls(v) for v in value)
    if not isinstance(value, str) or "/s3/" not in value:
        return value
    return _mirror_pattern(os.environ.get("HISTOXAI_CACHE")).sub(SCHEME, value)


@cache
def _mirror_pattern(cache_folder: str | None) -> re.Pattern[str]:
    return re.compile(re.escape(_cache(cache_folder)) + "/[0-9a-f]{12}/")


def relative_name(folder: Path, path: Path) -> str:
    """Return the name by which files in `folder` refer to `path`.

    The name is a relative path, or a full path or URL where one of them is on S3 and the other on disk.
    """
    path, folder = path.resolve(), folder.resolve()
    if is_on_s3(path) != is_on_s3(folder):
        return str(with_s3_urls(str(path)))
    return os.path.relpath(path, folder)


def resolve_name(folder: Path, name: str) -> Path:
    """Return the path that `relative_name` named."""
    return mirror_path(name) if name.startswith(SCHEME) else Path(folder.resolve(), name)


def require_local(path: Path, what: str) -> None:
    """Raise InputRefused if `path` is on S3; what: names the output in the message, such as "run folders"."""
    if is_on_s3(path):
        raise InputRefused(
            f"{with_s3_urls(str(path))}: {what} are written to disk only; choose a local path and copy it after"
        )
