"""Read and write single objects on S3-compatible storage, named by their mirror paths (`core.s3_paths`).

A PUT is atomic, and every reader sees it once it has returned, so S3 needs neither temporary names nor syncs. The first
request imports obstore; local runs never do.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import HistoxaiError, InputRefused, UsageError
from histoxai.core.s3_paths import ENDPOINT_VARIABLES, bucket_and_key, endpoint, is_on_s3, with_s3_urls
from histoxai.core.signals import RESUME_HINT

# Approximate bytes of one request: it has to end within its time-out, and a failure repeats it.
_PART = 16 << 20
_DENIED = ("AccessDenied", "403 Forbidden", "401 Unauthorized", "SignatureDoesNotMatch", "InvalidAccessKeyId")

_clients: dict[tuple[Any, ...], Any] = {}
# Sizes of objects by path, as last listed or written, which saves a request for each shard of a store.
known_sizes: dict[str, int] = {}


def belongs_on_s3(path: Path) -> bool:
    """Return whether a path's file belongs on S3: it lies in a mirror and is no temporary file or partial shard."""
    return is_on_s3(path) and is_uploaded(bucket_and_key(path)[1])


def is_uploaded(name: str) -> bool:
    """Return whether a file of this path in a mirror belongs on S3."""
    parts = name.split("/")
    return "_part" not in parts and not any(p.startswith(".") for p in parts)


def is_chunk_file(path: Path) -> bool:
    """Return whether a file is an array's chunk or shard; these are read in ranges and have no local copy."""
    return path.name.isdigit()


def put(path: Path, data: bytes) -> None:
    """Write an object, atomically."""
    store, key, obstore = _object(path)
    with _converted_errors(path):
        obstore.put(store, key, data, use_multipart=len(data) > _PART, chunk_size=_PART)
    known_sizes[str(path)] = len(data)


def put_new(path: Path, data: bytes) -> bool:
    """Write an object unless it exists; return whether it was written."""
    store, key, obstore = _object(path)
    with _converted_errors(path):
        try:
            obstore.put(store, key, data, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
    known_sizes[str(path)] = len(data)
    return True


def get(path: Path) -> bytes:
    """Return a whole object; raise FileNotFoundError if it does not exist."""
    store, key, obstore = _object(path)
    with _converted_errors(path):
        return bytes(obstore.get(store, key).bytes())


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a whole object in pieces; raise FileNotFoundError if it does not exist."""
    store, key, obstore = _object(path)
    with _converted_errors(path):
        response = obstore.get(store, key)
        total, version = response.meta["size"], response.meta["e_tag"]
        if total <= _PART:
            yield bytes(response.bytes())
            return
        for start in range(0, total, _PART):
            # only of this version: a version that is written meanwhile must not be mixed in
            options = {"range": (start, min(start + _PART, total)), "if_match": version}
            yield bytes(obstore.get(store, key, options=options).bytes())


def remove(paths: Sequence[Path]) -> None:
    """Delete objects of one bucket; missing ones are no error."""
    if not paths:
        return
    store, _, obstore = _object(paths[0])
    with _converted_errors(paths[0]):
        obstore.delete(store, [bucket_and_key(p)[1] for p in paths])
    for path in paths:
        known_sizes.pop(str(path), None)


def size(path: Path) -> int | None:
    """Return the bytes of an object, None if it does not exist."""
    if (known := known_sizes.get(str(path))) is not None:
        return known
    store, key, obstore = _object(path)
    with suppress(FileNotFoundError), _converted_errors(path):
        known_sizes[str(path)] = obstore.head(store, key)["size"]
    return known_sizes.get(str(path))


def checksum(path: Path) -> str:
    """Return `provenance.checksum` of an object; raise FileNotFoundError if it does not exist."""
    state = blake2b(digest_size=16)
    for piece in pieces(path):
        state.update(piece)
    return state.hexdigest()


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """List all objects in a folder: path in it -> (bytes, entity tag), without markers of empty folders.

    Raises InputRefused if the bucket does not exist.
    """
    store, key, obstore = _object(folder)
    entries: dict[str, tuple[int, str]] = {}
    with _converted_errors(folder):
        for batch in obstore.list(store, key or None):
            for entry in batch:
                name = entry["path"][len(key) + 1 :] if key else entry["path"]
                entries[name] = entry["size"], entry["e_tag"] or ""
    folders = {"/".join(parts[:i]) for parts in (n.split("/") for n in entries) for i in range(1, len(parts))}
    return {n: e for n, e in entries.items() if n and n not in folders and _is_plain(n)}


def _is_plain(name: str) -> bool:
    # A listed name must not lead out of the mirror.
    return not {"", ".", ".."} & set(name.split("/"))


class RangeReader:
    """Reads byte ranges of one object. Raises FileNotFoundError if it does not exist."""

    def __init__(self, path: Path) -> None:
        length = size(path)
        if length is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.size = length
        self._path = path
        self._fetched: dict[tuple[int, int], bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes [offset, offset + length), fewer at the end of the object."""
        if (fetched := self._fetched.get((offset, length))) is not None:
            return fetched
        length = min(length, self.size - offset)
        return self._get([(offset, length)])[0] if length > 0 else b""

    def prefetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Fetch several (offset, length) at once, neighbours in one request; drops those of earlier calls."""
        self._fetched = dict(zip(spans, self._get(spans), strict=True)) if spans else {}

    def _get(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        store, key, obstore = _object(self._path)
        fetched: list[bytes] = []
        with _converted_errors(self._path):
            while len(fetched) < len(spans):
                ends = np.cumsum([n for _, n in spans[len(fetched) :]])
                batch = spans[len(fetched) :][: max(1, int(np.searchsorted(ends, _PART)))]
                parts = obstore.get_ranges(store, key, starts=[a for a, _ in batch], lengths=[n for _, n in batch])
                fetched += [bytes(data) for data in parts]
        return fetched


# ---- the connection


def _object(path: Path) -> tuple[Any, str, Any]:
    # The client of the path's bucket, the object's key, and the library.
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise UsageError(f"{with_s3_urls(str(path))}: needs obstore; `pip install 'histoxai[remote]'`") from None
    bucket, key = bucket_and_key(path)
    # A forked process must not share connections; other credentials need another client.
    cache_key = (os.getpid(), bucket, *(v for k, v in sorted(os.environ.items()) if k.startswith("AWS_")))
    if cache_key not in _clients:
        address = endpoint()
        where: dict[str, Any] = {"endpoint": address} if address else {}
        _clients[cache_key] = obstore.store.S3Store(
            bucket,
            **where,
            client_options={"allow_http": address.startswith("http://"), "timeout": "45s", "connect_timeout": "5s"},
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=40)},
        )
    return _clients[cache_key], key, obstore


@contextmanager
def _converted_errors(path: Path) -> Iterator[None]:
    """Convert errors of the storage to HistoxaiError; a missing object stays a FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _refusal(path, str(error)) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), with_s3_urls(str(path))) from None
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        raise _refusal(path, f"{type(error).__name__}: {error}") from None


def _refusal(path: Path, answer: str) -> HistoxaiError:
    url, bucket = with_s3_urls(str(path)), bucket_and_key(path)[0]
    if "169.254.169.254" in answer or "MissingCredentials" in answer:
        return InputRefused(
            f"{url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for "
            "a public bucket"
        )
    if "NoSuchBucket" in answer:
        where = re.sub("//[^/@]*@", "//", endpoint()) or "Amazon S3"  # the address may contain a password
        return InputRefused(f"{url}: there is no bucket '{bucket}' at {where}; check its name")
    if any(word in answer for word in ("PermissionDenied", "Unauthenticated", *_DENIED)):
        return InputRefused(
            f"{url}: access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and what they allow"
        )
    # the rest of the library's message is internals and the server's error page
    reason = answer.split("\n")[0].partition("<?xml")[0].partition(": ")[2][:200].strip(" :")
    return HistoxaiError(
        f"{url}: storage failed ({reason}); check the network and {ENDPOINT_VARIABLES[1]}; {RESUME_HINT}"
    )
