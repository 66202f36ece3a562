"""Objects on S3-compatible storage, named by their paths in the mirror (`places`); `mirror` keeps whole folders.

A PUT is atomic and seen by everyone once it has returned, so storage needs neither temporary names nor syncs.
obstore is imported by the first request; local runs never do.
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

# Bytes that one request moves, about: each has to end within its time-out, and is what a failure repeats.
_PART = 16 << 20
_AGAIN = "what is finished is kept: run the same command again to go on"
_DENIED = ("AccessDenied", "403 Forbidden", "401 Unauthorized", "SignatureDoesNotMatch", "InvalidAccessKeyId")

_clients: dict[tuple[Any, ...], Any] = {}
# Sizes of objects as last listed or written, so that a store of many shards does not take a request for each.
known_sizes: dict[str, int] = {}


def belongs_on_s3(path: Path) -> bool:
    """Whether the place of a file is on storage: in a mirror, no temporary file, no piece of an unfinished shard."""
    return is_on_s3(path) and is_uploaded(bucket_and_key(path)[1])


def is_uploaded(name: str) -> bool:
    """Whether a file of this path below a mirror belongs on storage."""
    parts = name.split("/")
    return "_part" not in parts and not any(p.startswith(".") for p in parts)


def is_chunk_file(path: Path) -> bool:
    """Whether a file is an array's chunk or shard, which are read by ranges and not kept here."""
    return path.name.isdigit()


def put(path: Path, data: bytes) -> None:
    """Write an object, atomically."""
    store, key, obstore = _object(path)
    with _spoken(path):
        obstore.put(store, key, data, use_multipart=len(data) > _PART, chunk_size=_PART)
    known_sizes[str(path)] = len(data)


def put_new(path: Path, data: bytes) -> bool:
    """Write an object where there is none; returns whether there was none."""
    store, key, obstore = _object(path)
    with _spoken(path):
        try:
            obstore.put(store, key, data, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
    known_sizes[str(path)] = len(data)
    return True


def get(path: Path) -> bytes:
    """A whole object; raises FileNotFoundError where there is none."""
    store, key, obstore = _object(path)
    with _spoken(path):
        return bytes(obstore.get(store, key).bytes())


def pieces(path: Path) -> Iterator[bytes]:
    """A whole object in pieces; raises FileNotFoundError where there is none."""
    store, key, obstore = _object(path)
    with _spoken(path):
        found = obstore.get(store, key)
        total, version = found.meta["size"], found.meta["e_tag"]
        if total <= _PART:
            yield bytes(found.bytes())
            return
        for start in range(0, total, _PART):
            # of this version alone: one that is written meanwhile would be mixed into it
            options = {"range": (start, min(start + _PART, total)), "if_match": version}
            yield bytes(obstore.get(store, key, options=options).bytes())


def remove(paths: Sequence[Path]) -> None:
    """Delete objects of one bucket; those that are not there are no error."""
    if not paths:
        return
    store, _, obstore = _object(paths[0])
    with _spoken(paths[0]):
        obstore.delete(store, [bucket_and_key(p)[1] for p in paths])
    for path in paths:
        known_sizes.pop(str(path), None)


def size(path: Path) -> int | None:
    """Bytes of an object, None where there is none."""
    known = known_sizes.get(str(path))
    if known is not None:
        return known
    store, key, obstore = _object(path)
    with suppress(FileNotFoundError), _spoken(path):
        known_sizes[str(path)] = obstore.head(store, key)["size"]
    return known_sizes.get(str(path))


def checksum(path: Path) -> str:
    """`provenance.checksum` of an object; raises FileNotFoundError where there is none."""
    state = blake2b(digest_size=16)
    for piece in pieces(path):
        state.update(piece)
    return state.hexdigest()


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """All objects below a folder: path below it -> (bytes, entity tag), without marks of empty folders.

    Raises InputRefused where there is no such bucket.
    """
    store, key, obstore = _object(folder)
    found: dict[str, tuple[int, str]] = {}
    with _spoken(folder):
        for batch in obstore.list(store, key or None):
            for entry in batch:
                name = entry["path"][len(key) + 1 :] if key else entry["path"]
                found[name] = entry["size"], entry["e_tag"] or ""
    folders = {"/".join(parts[:i]) for parts in (n.split("/") for n in found) for i in range(1, len(parts))}
    return {n: e for n, e in found.items() if n and n not in folders and _is_plain(n)}


def _is_plain(name: str) -> bool:
    # nothing that is listed may leave the mirror
    return not {"", ".", ".."} & set(name.split("/"))


class RangeReader:
    """Reads parts of one object. Raises FileNotFoundError where there is none."""

    def __init__(self, path: Path) -> None:
        found = size(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.size = found
        self._path = path
        self._fetched: dict[tuple[int, int], bytes] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), fewer where the object ends."""
        if (known := self._fetched.get((offset, length))) is not None:
            return known
        length = min(length, self.size - offset)
        return self._get([(offset, length)])[0] if length > 0 else b""

    def ahead(self, spans: Sequence[tuple[int, int]]) -> None:
        """Fetch several (offset, length) at once, neighbours in one request; an empty list forgets them."""
        self._fetched = dict(zip(spans, self._get(spans), strict=True)) if spans else {}

    def _get(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        store, key, obstore = _object(self._path)
        found: list[bytes] = []
        with _spoken(self._path):
            while len(found) < len(spans):
                ends = np.cumsum([n for _, n in spans[len(found) :]])
                some = spans[len(found) :][: max(1, int(np.searchsorted(ends, _PART)))]
                got = obstore.get_ranges(store, key, starts=[a for a, _ in some], lengths=[n for _, n in some])
                found += [bytes(data) for data in got]
        return found


# ---- the connection


def _object(path: Path) -> tuple[Any, str, Any]:
    # the client of its bucket, its key, and the module
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise UsageError(f"{with_s3_urls(str(path))}: needs obstore; `pip install 'histoxai[remote]'`") from None
    bucket, key = bucket_and_key(path)
    # a forked process must not share connections; other credentials make other clients
    mark = (os.getpid(), bucket, *(v for k, v in sorted(os.environ.items()) if k.startswith("AWS_")))
    if mark not in _clients:
        address = endpoint()
        where: dict[str, Any] = {"endpoint": address} if address else {}
        _clients[mark] = obstore.store.S3Store(
            bucket,
            **where,
            client_options={"allow_http": address.startswith("http://"), "timeout": "45s", "connect_timeout": "5s"},
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=40)},
        )
    return _clients[mark], key, obstore


@contextmanager
def _spoken(path: Path) -> Iterator[None]:
    """What storage answers, in words; what is not there stays a FileNotFoundError."""
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


def _refusal(path: Path, said: str) -> HistoxaiError:
    place, bucket = with_s3_urls(str(path)), bucket_and_key(path)[0]
    if "169.254.169.254" in said or "MissingCredentials" in said:
        return InputRefused(
            f"{place}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for "
            "a public bucket"
        )
    if "NoSuchBucket" in said:
        where = re.sub("//[^/@]*@", "//", endpoint()) or "Amazon S3"  # a password may stand in an address
        return InputRefused(f"{place}: there is no bucket '{bucket}' at {where}; check its name")
    if any(word in said for word in ("PermissionDenied", "Unauthenticated", *_DENIED)):
        return InputRefused(
            f"{place}: access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and what they allow"
        )
    # the rest of what the library says is its own innards, and the server's page
    reason = said.split("\n")[0].partition("<?xml")[0].partition(": ")[2][:200].strip(" :")
    return HistoxaiError(f"{place}: storage failed ({reason}); check the network and {ENDPOINT_VARIABLES[1]}; {_AGAIN}")
