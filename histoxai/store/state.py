"""How complete a store is, what in it does not hold, and which command mends it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import Damaged, Incomplete
from histoxai.core.s3_paths import is_on_s3, with_s3_urls
from histoxai.store.records import bad_files, is_done, item_names, read_item, read_record, read_records

# Verbs that take `--shard`, and those that can look at what is done.
_SHARDED = ("ingest", "masks", "predict", "explain")
_VERIFYING = (*_SHARDED, "augment", "score")


def format_ranges(numbers: Iterable[int]) -> str:
    """[3, 17, 18, 19] -> "3,17-19", as `--shard` and `sbatch --array` read it."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def item_state(root: Path, header: Mapping[str, Any], name: str, verify: bool = False) -> dict[str, Any]:
    """One item: number of shards, which are missing or fail, and what its records say of each.

    `missing`: no record, another fingerprint, or a file of another size. `failed`: with `verify`, those whose
    checksums do not match.
    """
    facts = read_item(root, name)
    if facts is None:
        # only `index`, one shard, needs none; any other item without its facts has to be made again
        facts = {"rows": 1, "shard": 1, "what": {}, "fingerprint": None if name == "index" else ""}
    count = -(-facts["rows"] // facts["shard"])
    records = read_records(root, name)
    missing = [k for k in range(count) if not is_done(root, records.get(k), facts["fingerprint"])]
    done = sorted(set(range(count)) - set(missing))
    failed = [k for k in done if verify and next(bad_files(root, records[k], True), None) is not None]
    kept = ("seconds", "peak_memory_mb", "host", "threads")
    return {
        "shards": count,
        "missing": missing,
        "failed": failed,
        "rows": facts["rows"],
        "rows_per_shard": facts["shard"],
        "seconds": round(sum(records[k].get("seconds", 0) for k in done), 3),
        "peak_memory_mb": max((records[k].get("peak_memory_mb", 0) for k in done), default=0),
        "hosts": dict(Counter(str(records[k]["host"]) for k in done if "host" in records[k])),
        "records": [{"shard": k, **{n: records[k].get(n) for n in kept}} for k in done],
        "what": facts["what"],
        "command": with_output(facts.get("command", header["run"]["command"]), root),
    }


def completeness(root: Path, header: Mapping[str, Any], verify: bool = False) -> dict[str, dict[str, Any]]:
    """`item_state` of every item that the store has or should have, by name."""
    names = dict.fromkeys(["index", *item_names(root), *header.get("items", [])])
    return {name: item_state(root, header, name, verify) for name in names}


def gaps_text(root: Path, name: str, missing: Sequence[int], command: str) -> str:
    """What is missing of an item, and the command that fills it."""
    noun = "shard" if len(missing) == 1 else "shards"
    # ids and labels come with the store: the whole command mends their record
    run = command if name == "index" else fill_command(command, missing)
    return f"{root}: '{name}' lacks {noun} {format_ranges(missing)}; run `{run}`"


def require_complete(root: Path, header: Mapping[str, Any], names: Sequence[str] | None = None) -> None:
    """Raise Incomplete for the first item, of these names, with gaps; says which command fills them.

    Damaged where ids, labels or splits are not those that were written.
    """
    for name, state in completeness(root, header).items():
        if state["missing"] and (names is None or name in names):
            raise Incomplete(gaps_text(root, name, state["missing"], state["command"]))
    # ids, labels and splits are small, and what people change by hand
    record = None if is_on_s3(root) else read_record(root, "index", 0)
    if record is not None and (changed := next(bad_files(root, record, True), None)):
        command = with_output(str(header["run"]["command"]), root)
        raise Damaged(
            f"{root}: {changed} is damaged, or was changed after it was written; make the store again: "
            f"`{with_force(command)}`"
        )


def rows_done(state: Mapping[str, Any]) -> np.ndarray:
    """Which rows of an item are there: (rows,) bool."""
    shard = np.arange(state["rows"]) // state["rows_per_shard"]
    return ~np.isin(shard, state["missing"])


def repair_hint(root: Path) -> str:
    """What writes a lost or damaged `zarr.json` of a store again; the command is that of its first item."""
    for name in item_names(root):
        if (facts := read_item(root, name)) is not None:
            return f"`{with_output(facts['command'], root)}` writes it again and keeps what is done"
    return "the command that made the store writes it again"


def with_output(command: str, root: Path) -> str:
    """A command on record with the store's place as it is known now: it may have been moved or copied.

    A record from elsewhere may say anything, and what is printed is pasted: a command that is none of ours becomes a
    look at the store, and none replaces what is there or names another output.
    """
    place = with_s3_urls(str(root))
    try:
        words = [word for word in shlex.split(command) if word != "--force"]
    except ValueError:  # no words of a shell
        words = []
    if words[:1] != ["histoxai"]:
        return shlex.join(["histoxai", "info", place])
    for i, word in enumerate(words):
        if word in ("-o", "--output") and i + 1 < len(words):
            words[i + 1] = place
        elif word.startswith("--output="):
            words[i] = f"--output={place}"
        elif word.startswith("-o") and len(word) > 2:
            words[i] = f"-o{place}"
    return shlex.join(words)


def fill_command(command: str, shards: Iterable[int]) -> str:
    """The command that does these shards, from the one on record."""
    return f"{command} --shard {format_ranges(shards)}" if _verb(command) in _SHARDED else command


def remake_command(command: str, shards: Iterable[int]) -> str:
    """The command that remakes shards whose bytes are not what they were; the rest of the store stays."""
    if _verb(command) not in _VERIFYING:
        return with_force(command)
    return f"{fill_command(command, shards)} --verify"


def with_force(command: str) -> str:
    """The command that starts over, from what `with_output` gives; a look at a store stays one."""
    return command if _verb(command) == "info" else f"{command} --force"


def _verb(command: str) -> str:
    words = shlex.split(command)
    return words[1] if len(words) > 1 else ""
