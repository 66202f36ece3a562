"""How ranks and devices follow from Slurm, torchrun and flags."""

from __future__ import annotations

import pytest

from histoxai.core.errors import UsageError
from histoxai.train.ranks import Placement, environment, placement

SRUN = {
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_JOB_ID": "77",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
}


def test_placement() -> None:
    assert placement(None, None, {}) == Placement()
    assert placement(4, None, {}) == Placement(per_node=4, launch=True)
    found = placement(None, None, SRUN)
    assert (found.rank, found.local_rank, found.per_node, found.nodes, found.world) == (3, 1, 2, 2, 4)
    assert (found.address, found.port, found.launch) == ("gpu07", 15_000 + 77 + 202, False)
    assert placement(2, 2, SRUN) == found
    with pytest.raises(UsageError, match="--devices 4: the processes that were started are 2"):
        placement(4, None, SRUN)
    with pytest.raises(UsageError, match="every node needs as many"):
        placement(None, None, SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"})
    with pytest.raises(UsageError, match="every node needs as many"):
        placement(None, None, SRUN | {"SLURM_STEP_NUM_TASKS": "3"})
    with pytest.raises(UsageError, match="srun --nodes=2"):
        placement(1, 2, {})
    # a batch script that asked for tasks and started none of them
    assert placement(None, None, {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}) == Placement()
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}
    found = placement(None, None, torchrun | {"MASTER_ADDR": "a", "MASTER_PORT": "1234"})
    assert found == Placement(5, 1, 2, 3, address="a", port=1234)
    own = placement(None, None, SRUN | {"SLURM_GPUS_PER_TASK": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"})
    bound = own.seeing(1)
    assert (bound.rank, bound.local_rank, bound.node, bound.per_node, bound.nodes) == (3, 0, 3, 1, 4)
    assert own.seeing(2) == own
    assert found.seeing(1) == found  # one GPU for two tasks
    assert Placement(per_node=2, launch=True).seeing(1).per_node == 2
    with environment(A_B_C=1):
        import os

        assert os.environ["A_B_C"] == "1"
    assert "A_B_C" not in os.environ
