"""Settings of how work is done, shared by the verbs; nothing here changes a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from histoxai.core.errors import UsageError
from histoxai.settings.base import ARRAY, BEHAVIOUR, DEVICE, Checked, Option, bounded, option


@dataclass(frozen=True, kw_only=True)
class Work(Checked):
    """How a command does its work.

    only: look or estimate instead of working (see MODES). threads: 0 lets the command line choose. parity: how many
    patches `--check-parity` compares. A worker process is given its rank (0 for the first, and for a command without
    workers) and, as `feed`, the shards that it is handed one by one.
    """

    shard: str | None = option(
        None, "Only these shards: 5, 0-7, 3,9, or auto (Slurm's).", ARRAY, "SHARDS", changes_numbers=False
    )
    one_indexed: bool = option(False, "Number shards from 1, as given and as printed.", ARRAY, changes_numbers=False)
    only: str | None = bounded(None, choices=("count", "missing", "check", "estimate", "parity", "find-lr", "plan"))
    force: bool = option(False, "Start over where the output exists.", BEHAVIOUR, changes_numbers=False)
    verify: bool = option(False, "Recompute checksums; redo damaged shards.", BEHAVIOUR, changes_numbers=False)
    workers: int = option(1, "Processes; --threads is for each.", DEVICE, "N", changes_numbers=False, ge=1)
    threads: int = option(0, "CPU threads.", DEVICE, "N", default_text="Slurm's, else the cores, at most 8", ge=0)
    feed: Iterable[int] | None = None
    rank: int = 0
    parity: int = bounded(0, ge=0)

    @property
    def prints_shards(self) -> bool:
        """Whether the command only prints numbers of shards."""
        return self.only in ("count", "missing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.force and self.shard is not None:
            raise UsageError("--force with --shard would throw away the other tasks' work; start over without --shard")


# Flags that look, estimate or plan instead of working, by the value that they give to `Work.only`.
MODES = {
    "count": ("--count-shards", Option("Print all shards for `sbatch --array`.", ARRAY)),
    "missing": ("--missing", Option("Print missing shards for `sbatch --array`.", ARRAY)),
    "estimate": ("--estimate", Option("Time a few patches; print hours, GB and a job.", ARRAY)),
    "parity": ("--check-parity", Option("Compare K patches with the methods' libraries.", BEHAVIOUR, "K")),
    "find-lr": ("--find-lr", Option("Suggest a learning rate from a short run.", BEHAVIOUR)),
    "plan": ("--plan", Option("Print the table of splits; write nothing.", BEHAVIOUR)),
    "check": ("--dry-run", Option("Check everything; write nothing.", BEHAVIOUR)),
}
