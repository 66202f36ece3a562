"""Find the rank of this process and how many processes train together, from the environment.

A process may train alone, be launched by histoxai, or run under srun or torchrun. Nothing here imports torch: a
process that is not rank 0 has to know it before it prints anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from histoxai.core.errors import UsageError

LAUNCHED = "_HISTOXAI_LAUNCHED"  # set in processes that histoxai launches itself
_FIRST_PORT, _PORTS = 15_000, 10_000


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those of one training run: `per_node` on each of `nodes` machines.

    launch: this process has to launch the others. gpu_per_task: Slurm shows each task one GPU of its own. address,
    port: where rank 0 listens.
    """

    rank: int = 0
    local_rank: int = 0
    per_node: int = 1
    nodes: int = 1
    launch: bool = False
    gpu_per_task: bool = False
    address: str = "127.0.0.1"
    port: int | None = None

    @property
    def world(self) -> int:
        """The number of processes on all nodes."""
        return self.per_node * self.nodes

    @property
    def node(self) -> int:
        """The number of this process's node, from 0."""
        return self.rank // self.per_node

    def for_visible_gpus(self, gpus: int) -> Ranks:
        """Return the ranks as Fabric needs them where this process sees `gpus` GPUs.

        Where Slurm shows each task its own GPU alone (--gpus-per-task=1), each task counts as a node.
        """
        if gpus == 1 and self.per_node > 1 and self.gpu_per_task:
            return replace(self, local_rank=0, per_node=1, nodes=self.world)
        return self


def find_ranks(
    devices: int | None = None, nodes: int | None = None, environment: Mapping[str, str] = os.environ
) -> Ranks:
    """Read the ranks from the environment; devices, nodes: the user's options, which must agree with it.

    A batch script that asked for several tasks and started one without srun trains with one process. Raises UsageError
    where the options disagree with the processes that were started.
    """
    started = _started_elsewhere(environment)
    if started is None:
        if nodes is not None and nodes > 1:
            raise UsageError(
                f"--nodes {nodes}: this is one process on one node; start it with `srun --nodes={nodes} "
                "--ntasks-per-node=GPUS histoxai ...`, or torchrun"
            )
        return Ranks(per_node=devices or 1, launch=(devices or 1) > 1)
    for name, option, actual in (("devices", devices, started.per_node), ("nodes", nodes, started.nodes)):
        if option is not None and option != actual:
            raise UsageError(f"--{name} {option}: the processes that were started are {actual}; leave --{name} out")
    return started


@contextmanager
def environment(**changes: object) -> Iterator[None]:
    """Set environment variables inside (None: unset) for this process and its children; restore them at the end."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = str(value)


def _started_elsewhere(env: Mapping[str, str]) -> Ranks | None:
    """Return the ranks given by our launcher, torchrun or srun; None for a process that was started alone."""
    if LAUNCHED in env or "TORCHELASTIC_RUN_ID" in env:
        per_node = int(env["LOCAL_WORLD_SIZE"])
        return Ranks(
            int(env["RANK"]),
            int(env["LOCAL_RANK"]),
            per_node,
            int(env["WORLD_SIZE"]) // per_node,
            address=env["MASTER_ADDR"],
            port=int(env["MASTER_PORT"]),
        )
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _under_srun(env)
    return None


def _under_srun(env: Mapping[str, str]) -> Ranks:
    tasks, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_STEP_NUM_NODES", "1"))
    tasks_of_nodes = _tasks_of_nodes(env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if tasks % nodes or len(set(tasks_of_nodes)) > 1:
        raise UsageError(
            f"srun started {tasks} tasks on {nodes} nodes; every node needs as many: use --ntasks-per-node"
        )
    local_rank, node = int(env["SLURM_LOCALID"]), int(env["SLURM_NODEID"])
    per_node = tasks // nodes
    return Ranks(
        node * per_node + local_rank,
        local_rank,
        per_node,
        nodes,
        gpu_per_task=_is_gpu_per_task(env),
        address=env.get("MASTER_ADDR") or ("127.0.0.1" if nodes == 1 else _first_host(env["SLURM_STEP_NODELIST"])),
        port=int(env.get("MASTER_PORT") or _FIRST_PORT + _port_key(env) % _PORTS),
    )


def _is_gpu_per_task(env: Mapping[str, str]) -> bool:
    # --gpus-per-task, --ntasks-per-gpu, --gpu-bind=single:1
    binding = env.get("SLURM_GPU_BIND", "") + env.get("SLURMD_GPU_BIND", "")
    per_task = "SLURM_GPUS_PER_TASK" in env or "gpu" in env.get("SLURM_TRES_PER_TASK", "")
    return per_task or env.get("SLURM_NTASKS_PER_GPU") == "1" or "single:1" in binding


def _tasks_of_nodes(text: str) -> list[int]:
    """Parse Slurm's number of tasks of each node: 3(x2),1 -> 3, 3, 1."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def _port_key(env: Mapping[str, str]) -> int:
    # the same in all tasks of a step, and different in the steps beside it
    return int(env.get("SLURM_JOB_ID", "0")) + 101 * int(env["SLURM_STEP_ID"])


def _first_host(nodes: str) -> str:
    """Return the first of Slurm's node list: n[03-05,9],m1 -> n03."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    assert match is not None
    return match[1] + (match[2] or "")
