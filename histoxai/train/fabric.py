"""Set up Lightning Fabric for one CPU or GPU, several of a node, or nodes under srun or torchrun."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from histoxai.core.errors import HistoxaiError, InputRefused, UsageError, is_out_of_memory
from histoxai.core.progress import Progress
from histoxai.explain.network import can_compile
from histoxai.networks.inference import pick_device
from histoxai.settings import Training
from histoxai.train.launcher import OtherRankFailed, RerunStage, launch_ranks
from histoxai.train.ranks import Ranks, environment

_PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# How torch's collective operations say that the process at the other end is gone.
_CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


@contextmanager
def start_fabric(settings: Training, ranks: Ranks, rerun: RerunStage) -> Iterator[Fabric]:
    """Launch the processes of a training run and yield Fabric, ready in each of them.

    rerun: what the processes that this one launches run. Raises UsageError or InputRefused for a device or precision
    that is not available.
    """
    device = check_device(settings, ranks)
    if device.type == "cuda":
        ranks = ranks.for_visible_gpus(torch.cuda.device_count())
    if settings.deterministic:
        # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _silence_fabric()
    with launch_ranks(ranks, rerun), _deterministic(settings.deterministic), environment(**_fabric_variables(ranks)):
        fabric = _fabric(settings, ranks, device)
        try:
            fabric.launch()
            yield fabric
        except RuntimeError as error:
            if lost := _lost_connection(error, ranks):
                raise lost from error
            raise
        finally:
            if ranks.world > 1 and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def check_device(settings: Training, ranks: Ranks) -> torch.device:
    """Return the device of this process.

    Raises UsageError or InputRefused for a device or precision that is not available.
    """
    device = pick_device(settings.device, ranks.local_rank, settings.precision)
    if device.type == "cpu" and settings.precision == "fp16":
        raise UsageError("--precision fp16: only GPUs train in it; use fp32 or bf16 on a CPU")
    if device.type == "cuda" and ranks.per_node > 1:
        if ":" in settings.device:
            raise UsageError(
                f"--device {settings.device}: names one GPU, and {ranks.per_node} are asked for; use --device cuda"
            )
        gpus = torch.cuda.device_count()
        if ranks.for_visible_gpus(gpus).per_node > gpus:
            raise InputRefused(
                f"{ranks.per_node} processes on this node, and {gpus} GPUs; ask for as many GPUs (--gpus-per-node), "
                "or for fewer --devices"
            )
    return device


def compile_model(model: nn.Module, device: torch.device, progress: Progress) -> nn.Module:
    """Return the network through torch.compile, or itself, with a warning, where there is no compiler."""
    if not can_compile(device):
        progress.warn("--compile: torch.compile does not work here (it needs a C++ compiler); going on without it")
        return model
    # in this process: a pool of compiler processes would outlive a task that is stopped
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    return torch.compile(model)


def _silence_fabric() -> None:
    for name in ("lightning.fabric", "lightning_fabric", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # On a login node, which has srun and does not need it.
    warnings.filterwarnings("ignore", message="The `srun` command is available")


def _fabric(settings: Training, ranks: Ranks, device: torch.device) -> Fabric:
    several, gpu = ranks.world > 1, device.type == "cuda"
    return Fabric(
        accelerator=device.type,
        devices=ranks.per_node if several or not gpu else [device.index or 0],
        num_nodes=ranks.nodes,
        strategy=DDPStrategy(process_group_backend="nccl" if gpu else "gloo") if several else "auto",
        precision=_PRECISIONS[settings.precision],
        plugins=[LightningEnvironment()],
    )


def _lost_connection(error: RuntimeError, ranks: Ranks) -> OtherRankFailed | None:
    lost = any(message in str(error) for message in _CONNECTION_LOST)
    if ranks.world == 1 or not lost or is_out_of_memory(error):
        return None
    reason = (str(error).splitlines() or [""])[0][:120]
    return OtherRankFailed(f"another process of this training has ended; see its message ({reason})")


@contextmanager
def _deterministic(enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise HistoxaiError(
            f"--deterministic: {str(error).splitlines()[0][:160]}; leave it out, or choose another --arch"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _fabric_variables(ranks: Ranks) -> dict[str, object]:
    # Fabric's own plugin for Slurm refuses `srun -n 2`; LightningEnvironment reads any layout from these variables
    variables: dict[str, object] = {
        "LOCAL_RANK": ranks.local_rank if ranks.world > 1 else None,
        "NODE_RANK": ranks.node,
        "WORLD_SIZE": ranks.world,
    }
    if ranks.world > 1 and not ranks.launch:
        variables |= {"MASTER_ADDR": ranks.address, "MASTER_PORT": ranks.port}
    return variables
