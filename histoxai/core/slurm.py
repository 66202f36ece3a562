"""Job scripts for Slurm, sized by the estimated cost of a run."""

from __future__ import annotations

import math

# Aim at two hours a task: short enough to fit gaps in a busy queue, long enough that start-up does not matter.
_TASK_HOURS = 2.0
_MAX_TASKS = 1000  # sites rarely allow more (MaxArraySize is 1001 by default)
_SAFETY = 1.5


def array_block(command: str, shards: int, hours: float, memory_mb: int, cpus: int, gpu: bool) -> str:
    """Return an sbatch script that does all shards of a command as an array job.

    hours: time of one process for all shards. memory_mb: its peak memory in MiB. The script requests 1.5 times as
    much, rounded up to five minutes and to a gigabyte.
    """
    tasks = max(1, min(shards, _MAX_TASKS, math.ceil(hours / _TASK_HOURS)))
    largest = math.ceil(shards / tasks) / shards * hours  # of the task with the most shards
    minutes = 5 * math.ceil((largest * 60 * _SAFETY + 3) / 5)
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
