"""Record where a store or run folder came from: settings, versions, parents, and the run.

Also the keys derived from it: canonical JSON, fingerprints, and the seeds that tie randomness to
(seed, purpose, patch) instead of to the order of work.
"""

from __future__ import annotations

import getpass
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from histoxai import __version__
from histoxai.core.errors import InputRefused
from histoxai.core.s3_paths import relative_name, with_s3_urls

# Raised whenever a change makes any stored number differ from what earlier versions wrote.
NUMERICS_VERSION = 1

_command: list[str] = []
_PACKAGES = (
    "numpy",
    "zarr",
    "numcodecs",
    "torch",
    "torchvision",
    "captum",
    "lime",
    "grad-cam",
    "scikit-image",
    "scikit-learn",
    "scipy",
)


def plain(value: Any) -> Any:
    """Return a settings value as JSON holds it: dataclasses as dicts, tuples as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def canonical(value: Any) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def checksum(data: bytes) -> str:
    """Return the 128-bit blake2b of some bytes, in hex."""
    return blake2b(data, digest_size=16).hexdigest()


def fingerprint(value: Any) -> str:
    """Return the checksum of a value's canonical JSON."""
    return checksum(canonical(value))


def file_checksum(path: Path) -> str:
    """Return the `checksum` of a file's content, read in pieces."""
    state = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
    return state.hexdigest()


def keyed_seed(seed: int, *parts: object, bits: int = 32) -> int:
    """Return an integer in [0, 2**bits) that depends on nothing but `seed` and `parts`.

    Shards, workers and resumed runs draw the same numbers for the same patch because every generator
    is seeded with keyed_seed(seed, purpose, patch_id).
    """
    key = canonical([seed, *[str(p) for p in parts]])
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> (64 - bits)


@cache
def versions() -> Mapping[str, str]:
    """Return the installed versions of histoxai, Python and the packages that numbers depend on."""
    installed = {"histoxai": __version__, "python": platform.python_version()}
    for name in _PACKAGES:  # each takes a millisecond: once per process, not once per record
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "absent"
    return installed


def run_facts() -> dict[str, str]:
    """Return time, host, user and command of this run, which no comparison takes into account."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = "unknown"
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "user": user,
        "command": with_s3_urls(recorded_command()),
    }


def record_command(words: Sequence[str]) -> None:
    """Set the command, without the program's name, that stores made by this process put on record.

    The command line makes it from what it parsed, so that it holds settings from variables too.
    """
    _command[:] = words


def command_words() -> Sequence[str]:
    """Return the words given to `record_command`, for child processes; empty where none were."""
    return tuple(_command)


def recorded_command() -> str:
    """Return the command on record as one line for a shell; that of the process where none was set."""
    return shlex.join(["histoxai", *(_command or sys.argv[1:])])


def header(
    schema: str, settings: Any, seed: int | None, parents: Mapping[str, Mapping[str, str]], **extra: Any
) -> dict[str, Any]:
    """Return `attrs["histoxai"]` of a new store: schema, settings, seed, versions, parents, run."""
    return {
        "schema": schema,
        "settings": plain(settings),
        "seed": seed,
        "versions": versions(),
        "parents": plain(parents),
        "run": run_facts(),
        **plain(extra),
    }


def parent(path: Path, child: Path, digest: str) -> dict[str, str]:
    """Return how `child` names a parent: its path relative to the child's folder, and its digest."""
    return {"path": relative_name(child.resolve().parent, path), "digest": digest}


def keep_apart(output: Path, *inputs: Path) -> None:
    """Raise InputRefused where an output is a file, or is, contains or lies in one of its inputs."""
    if output.exists() and not output.is_dir():
        raise InputRefused(f"{output}: is a file; the output is a folder, choose another name")
    written = output.resolve()
    for path in inputs:
        read = path.resolve()
        if written.is_relative_to(read) or read.is_relative_to(written):
            raise InputRefused(f"{output}: overlaps the input {path}, which is never changed; choose another output")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to one level of dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def first_difference(old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """Return the first setting, by name, in which two nested settings differ, with both values."""
    a, b = flatten(plain(old)), flatten(plain(new))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            return key, a.get(key), b.get(key)
    return None
