"""Which of how many processes this one is, by the environment: alone, of a crew of ours, under srun, or under torchrun.

Without torch: a process that is not the first knows it before it says anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from histoxai.core.errors import UsageError

CREW = "_HISTOXAI_CREW"  # set in the processes that we start ourselves
_FIRST_PORT, _PORTS = 15_000, 10_000


@dataclass(frozen=True)
class Placement:
    """This process among those of one training; `per_node` of them on each of `nodes` machines.

    launch: ours to start the others. own_gpu: Slurm gives each task one of its own, and shows it no other. address,
    port: of the first process.
    """

    rank: int = 0
    local_rank: int = 0
    per_node: int = 1
    nodes: int = 1
    launch: bool = False
    own_gpu: bool = False
    address: str = "127.0.0.1"
    port: int | None = None

    @property
    def world(self) -> int:
        return self.per_node * self.nodes

    @property
    def node(self) -> int:
        return self.rank // self.per_node

    def seeing(self, gpus: int) -> Placement:
        """As Lightning has to be told it where this process sees `gpus` GPUs.

        Where that is its own one (--gpus-per-task=1), each task is a node by itself.
        """
        if gpus == 1 and self.per_node > 1 and self.own_gpu:
            return replace(self, local_rank=0, per_node=1, nodes=self.world)
        return self


def placement(
    devices: int | None = None, nodes: int | None = None, environment: Mapping[str, str] = os.environ
) -> Placement:
    """Where this process stands; devices, nodes: what the user asked for, which srun and torchrun must agree with.

    A batch script that asked for several tasks and started one without srun runs alone. Raises UsageError where what
    was asked for is not what is there.
    """
    found = _found(environment)
    if found is None:
        if nodes is not None and nodes > 1:
            raise UsageError(
                f"--nodes {nodes}: this is one process on one node; start it with `srun --nodes={nodes} "
                "--ntasks-per-node=GPUS histoxai ...`, or torchrun"
            )
        n = devices or 1
        return Placement(per_node=n, launch=n > 1)
    for name, asked, there in (("devices", devices, found.per_node), ("nodes", nodes, found.nodes)):
        if asked is not None and asked != there:
            raise UsageError(f"--{name} {asked}: the processes that were started are {there}; leave --{name} out")
    return found


@contextmanager
def environment(**changes: object) -> Iterator[None]:
    """Variables of this process and of those that it starts, set inside and put back at the end; None for unset."""
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


def _found(env: Mapping[str, str]) -> Placement | None:
    if CREW in env or "TORCHELASTIC_RUN_ID" in env:
        per_node = int(env["LOCAL_WORLD_SIZE"])
        return Placement(
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


def _under_srun(env: Mapping[str, str]) -> Placement:
    tasks, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_STEP_NUM_NODES", "1"))
    each = _per_node(env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if tasks % nodes or len(set(each)) > 1:
        raise UsageError(
            f"srun started {tasks} tasks on {nodes} nodes; every node needs as many: use --ntasks-per-node"
        )
    local, node = int(env["SLURM_LOCALID"]), int(env["SLURM_NODEID"])
    per_node = tasks // nodes
    return Placement(
        node * per_node + local,
        local,
        per_node,
        nodes,
        own_gpu=_one_each(env),
        address=env.get("MASTER_ADDR") or ("127.0.0.1" if nodes == 1 else _first_host(env["SLURM_STEP_NODELIST"])),
        port=int(env.get("MASTER_PORT") or _FIRST_PORT + _port_key(env) % _PORTS),
    )


def _one_each(env: Mapping[str, str]) -> bool:
    # --gpus-per-task, --ntasks-per-gpu, --gpu-bind=single:1
    bound = env.get("SLURM_GPU_BIND", "") + env.get("SLURMD_GPU_BIND", "")
    told = "SLURM_GPUS_PER_TASK" in env or "gpu" in env.get("SLURM_TRES_PER_TASK", "")
    return told or env.get("SLURM_NTASKS_PER_GPU") == "1" or "single:1" in bound


def _per_node(text: str) -> list[int]:
    """Slurm's tasks of each node: 3(x2),1 -> 3, 3, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))]


def _port_key(env: Mapping[str, str]) -> int:
    # the same in all tasks of a step, another in the steps beside it
    return int(env.get("SLURM_JOB_ID", "0")) + 101 * int(env["SLURM_STEP_ID"])


def _first_host(nodes: str) -> str:
    """The first of Slurm's node list: n[03-05,9],m1 -> n03."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    assert match is not None
    return match[1] + (match[2] or "")
