"""A running Slurm, as tests speak to it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Cluster:
    """The running Slurm: its environment, a folder for logs, and its scripts' folder."""

    folder: Path
    env: dict[str, str]

    def __call__(self, *command: object, check: bool = True) -> str:
        words = [str(c) for c in command]
        result = subprocess.run(words, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 or not check, (words, result.stderr)
        return result.stdout.strip()

    def submit(self, *command: object) -> str:
        return self("sbatch", "--parsable", "--cpus-per-task=1", "--mem=500", *command)

    def state(self, job: str) -> list[str]:
        return self("squeue", "-h", "-t", "all", "-o", "%T", "-j", job, check=False).split()

    def node(self, job: str) -> str:
        return self("squeue", "-h", "-o", "%N", "-j", job, check=False)

    def log(self) -> str:
        return "".join(p.read_text() for p in sorted(self.folder.glob("*.log")))

    def until(self, test: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < deadline, (
                self("squeue", "-t", "all") + "\n" + self("sinfo", "-R") + self.log()[-3000:]
            )
            time.sleep(0.1)

    def finished(self, job: str) -> bool:
        states = self.state(job)
        assert not {"FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"} & set(states), (states, self.log())
        return bool(states) and set(states) == {"COMPLETED"}
