"""Flags that several commands share, and the texts they take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from histoxai.core.errors import UsageError
from histoxai.settings import Augmentation

Output = Annotated[Path, typer.Option("-o", "--output", help="What to write.")]
Device = Annotated[str, typer.Option(help="auto, cpu, or cuda[:i].", envvar="HISTOXAI_DEVICE")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", envvar="HISTOXAI_SEED")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads [SLURM_CPUS_PER_TASK, else the cores, at most 8].")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress; warnings only.")]
Force = Annotated[bool, typer.Option("--force", help="Start over where the output exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Split = Annotated[str, typer.Option(help="train, validation, test or all.")]
MicroBatch = Annotated[int, typer.Option(help="Patches in one pass of a network.")]
ShardSize = Annotated[int, typer.Option(help="Rows per work item.")]
Shard = Annotated[str | None, typer.Option(help="Only these work items: 5, 0-7, 3,9, or auto (SLURM array task).")]
OneIndexed = Annotated[bool, typer.Option("--one-indexed", help="Shard numbers start at 1, given and printed.")]
CountShards = Annotated[bool, typer.Option("--count-shards", help="Print all shards for `sbatch --array`; do nothing.")]
Missing = Annotated[bool, typer.Option("--missing", help="Print missing shards for `sbatch --array`; do nothing.")]
Verify = Annotated[bool, typer.Option("--verify", help="Recompute checksums of what is done; redo what fails.")]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Go on with what is there where an input has gaps, and mark it.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes; --threads is for each.")]


def words(text: str, flag: str) -> tuple[str, ...]:
    """A list of names; raises UsageError where it is empty or names one twice."""
    found = tuple(w.strip() for w in text.split(",") if w.strip())
    if not found:
        raise UsageError(f"{flag}: names at least one, comma between them")
    if len(set(found)) < len(found):
        raise UsageError(f"{flag} {text}: names one twice")
    return found


def shares(text: str) -> tuple[float, float, float]:
    """Three fractions; raises UsageError for anything else."""
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fractions {text}: expected three numbers such as 0.5,0.2,0.3") from None
    return a, b, c


def only_one(**asked: bool) -> str | None:
    """What a command does instead of working; raises UsageError where several are asked for."""
    chosen = [name for name, yes in asked.items() if yes]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: one at a time")
    return chosen[0] if chosen else None


_PRESETS: dict[str, dict[str, Any]] = {
    "light": {"flips": True, "rotations": True, "colour": 0.1, "hed": 0.05},
    "strong": {"flips": True, "rotations": True, "colour": 0.2, "hed": 0.1, "blur": 1.5, "erase": 0.1},
}
# What a transform that is named alone does.
_ALONE: dict[str, Any] = {"flips": True, "rotations": True, "colour": 0.1, "hed": 0.05, "blur": 1.0, "erase": 0.1}


def augmentation(text: str, flag: str = "--augment") -> Augmentation | None:
    """`none`, `light`, `strong`, names of transforms, or both with strengths: `light,hed=0.1,erase`.

    A later word stands over an earlier one; None where nothing is left to do. Raises UsageError for unknown names and
    strengths that are no numbers or out of bounds.
    """
    chosen: dict[str, Any] = {}
    try:
        for word in text.split(","):
            chosen |= _PRESETS.get(word.strip()) or _strength(word.strip())
        made = Augmentation(**chosen)
    except UsageError as error:
        raise UsageError(f"{flag} {text}: {str(error).removeprefix('--')}") from None
    return None if made == Augmentation() else made


def _strength(word: str) -> dict[str, Any]:
    # one word of --augment as fields of Augmentation
    name, given, value = word.partition("=")
    if word == "none":
        return dict.fromkeys(_ALONE, 0.0) | {"flips": False, "rotations": False}
    if name not in _ALONE:
        raise UsageError(f"'{word}' is not one of none, {', '.join(_PRESETS)}, {', '.join(_ALONE)}")
    if not given:
        return {name: _ALONE[name]}
    if isinstance(_ALONE[name], bool):
        raise UsageError(f"'{word}': {name} have no strength; name them alone")
    try:
        return {name: float(value)}
    except ValueError:
        raise UsageError(f"'{word}': expected a number, such as {name}={_ALONE[name]}") from None
