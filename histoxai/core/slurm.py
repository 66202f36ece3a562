"""Job scripts for Slurm, made from what a run is going to cost."""

from __future__ import annotations

import math

# A task aims at two hours: short enough to find gaps in a busy queue, long enough that start-up is nothing.
_TASK_HOURS = 2.0
_MOST_TASKS = 1000  # sites rarely allow more (MaxArraySize is 1001 unless told)
_SAFETY = 1.5


def array_block(command: str, shards: int, hours: float, memory_mb: int, cpus: int, gpu: bool) -> str:
    """An sbatch script that does all shards of a command as an array of tasks.

    hours: of one process for everything. memory_mb: its peak. Time and memory are asked for with half as much
    again; time in steps of five minutes, memory of a gigabyte.
    """
    tasks = max(1, min(shards, _MOST_TASKS, math.ceil(hours / _TASK_HOURS)))
    # the task with the most shards decides
    mine = math.ceil(shards / tasks) / shards * hours
    minutes = 5 * math.ceil((mine * 60 * _SAFETY + 3) / 5)
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=histoxai",
        f"#SBATCH --array=0-{tasks - 1}",
        f"#SBATCH --cpus-per-task={cpus}",
        *(["#SBATCH --gres=gpu:1"] if gpu else []),
        f"#SBATCH --mem={math.ceil(memory_mb * _SAFETY / 1024) + 1}G",
        f"#SBATCH --time={minutes // 60:02d}:{minutes % 60:02d}:00",
        "#SBATCH --signal=B:TERM@60",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=histoxai-%A_%a.log",
        f"exec {command} --shard auto",
    ]
    return "\n".join(lines) + "\n"
