"""Describe how complete a store is, which shards are damaged, and which command repairs them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.s3_paths import with_s3_urls
from histoxai.store.records import bad_files, is_done, item_names, read_item, read_records

# Commands with `--shard`, and commands with `--verify`.
_SHARDED = ("ingest", "masks", "predict", "explain")
_VERIFYING = (*_SHARDED, "augment", "score")


def format_ranges(numbers: Iterable[int]) -> str:
    """Format numbers as `--shard` and `sbatch --array` read them: [3, 17, 18, 19] -> "3,17-19"."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def item_state(root: Path, header: Mapping[str, Any], name: str, verify: bool = False) -> dict[str, Any]:
    """Return the state of an item: its shards, those that are missing or damaged, and facts from its records.

    `missing`: shards without a record, with another fingerprint, or with a file of another size. `failed`: with
    `verify`, shards whose checksums do not match.
    """
    facts = read_item(root, name)
    if facts is None:
        # `index`, a single shard, has none; any other item without facts has to be made again
        facts = {"rows": 1, "shard": 1, "what": {}, "fingerprint": None if name == "index" else ""}
    count = -(-facts["rows"] // facts["shard"])
    records = read_records(root, name)
    missing = [k for k in range(count) if not is_done(root, records.get(k), facts["fingerprint"])]
    done = sorted(set(range(count)) - set(missing))
    failed = [k for k in done if verify and next(bad_files(root, records[k], True), None) is not None]
    fields = ("seconds", "peak_memory_mb", "host", "threads")
    return {
        "shards": count,
        "missing": missing,
        "failed": failed,
        "rows": facts["rows"],
        "rows_per_shard": facts["shard"],
        "seconds": round(sum(records[k].get("seconds", 0) for k in done), 3),
        "peak_memory_mb": max((records[k].get("peak_memory_mb", 0) for k in done), default=0),
        "hosts": dict(Counter(str(records[k]["host"]) for k in done if "host" in records[k])),
        "records": [{"shard": k, **{n: records[k].get(n) for n in fields}} for k in done],
        "what": facts["what"],
        "command": with_output(facts.get("command", header["run"]["command"]), root),
    }


def gaps_text(root: Path, name: str, missing: Sequence[int], command: str) -> str:
    """Return a message with an item's missing shards and the command that fills them."""
    noun = "shard" if len(missing) == 1 else "shards"
    # ids and labels are written with the store: the command without --shard repairs their record
    run = command if name == "index" else fill_command(command, missing)
    return f"{root}: '{name}' lacks {noun} {format_ranges(missing)}; run `{run}`"


def rows_done(state: Mapping[str, Any]) -> np.ndarray:
    """Return which rows of an item are done: (rows,) bool; state: of `item_state`."""
    shard = np.arange(state["rows"]) // state["rows_per_shard"]
    return ~np.isin(shard, state["missing"])


def repair_hint(root: Path) -> str:
    """Return advice for a lost or damaged root `zarr.json`: the command of the store's first item."""
    for name in item_names(root):
        if (facts := read_item(root, name)) is not None:
            return f"`{with_output(facts['command'], root)}` writes it again and keeps what is done"
    return "the command that made the store writes it again"


def with_output(command: str, root: Path) -> str:
    """Return a recorded command with the store's current path as output, since the store may have been moved.

    Records of foreign stores may contain anything, and users paste what is printed. So a command of another program
    becomes `histoxai info`, and `--force` is removed.
    """
    location = with_s3_urls(str(root))
    try:
        words = [word for word in shlex.split(command) if word != "--force"]
    except ValueError:  # no words of a shell
        words = []
    if words[:1] != ["histoxai"]:
        return shlex.join(["histoxai", "info", location])
    for i, word in enumerate(words):
        if word in ("-o", "--output") and i + 1 < len(words):
            words[i + 1] = location
        elif word.startswith("--output="):
            words[i] = f"--output={location}"
        elif word.startswith("-o") and len(word) > 2:
            words[i] = f"-o{location}"
    return shlex.join(words)


def fill_command(command: str, shards: Iterable[int]) -> str:
    """Return the command that does these shards, from the recorded one."""
    return f"{command} --shard {format_ranges(shards)}" if _verb(command) in _SHARDED else command


def remake_command(command: str, shards: Iterable[int]) -> str:
    """Return the command that makes damaged shards again and leaves the rest of the store."""
    if _verb(command) not in _VERIFYING:
        return with_force(command)
    return f"{fill_command(command, shards)} --verify"


def with_force(command: str) -> str:
    """Add `--force` to a command from `with_output`, except to `histoxai info`."""
    return command if _verb(command) == "info" else f"{command} --force"


def _verb(command: str) -> str:
    words = shlex.split(command)
    return words[1] if len(words) > 1 else ""
