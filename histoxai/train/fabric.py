"""Lightning Fabric as training uses it: a CPU, a GPU, several, or nodes under srun or torchrun."""

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
from histoxai.train.launcher import Again, Elsewhere, crew
from histoxai.train.ranks import Placement, environment

_PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# How torch's collective operations say that the process at the other end is gone.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")


@contextmanager
def engine(settings: Training, place: Placement, again: Again) -> Iterator[Fabric]:
    """Fabric for the processes of `place`, started; `again` is what further ones of ours run.

    Raises UsageError or InputRefused for devices and precisions that are not there.
    """
    device = check_device(settings, place)
    if device.type == "cuda":
        place = place.seeing(torch.cuda.device_count())
    if settings.deterministic:
        # cuBLAS reads it when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with crew(place, again), _deterministic(settings.deterministic), _addressed(place):
        for name in ("lightning.fabric", "lightning_fabric", "lightning_utilities"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # On a login node, where srun is there and nobody wants it.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        several = place.world > 1
        gpu = device.type == "cuda"
        fabric = Fabric(
            accelerator=device.type,
            devices=place.per_node if several or not gpu else [device.index or 0],
            num_nodes=place.nodes,
            strategy=DDPStrategy(process_group_backend="nccl" if gpu else "gloo") if several else "auto",
            precision=_PRECISIONS[settings.precision],
            plugins=[LightningEnvironment()],
        )
        try:
            fabric.launch()
            yield fabric
        except RuntimeError as error:
            if several and not is_out_of_memory(error) and any(word in str(error) for word in _LOST):
                why = (str(error).splitlines() or [""])[0][:120]
                raise Elsewhere(f"another process of this training has ended; see what it said ({why})") from error
            raise
        finally:
            if several and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def check_device(settings: Training, place: Placement) -> torch.device:
    """The device that training is going to be on; raises UsageError or InputRefused for one that cannot be."""
    device = pick_device(settings.device, precision=settings.precision)
    if device.type == "cpu" and settings.precision == "fp16":
        raise UsageError("--precision fp16: only GPUs train in it; use fp32 or bf16 on a CPU")
    if device.type == "cuda" and place.per_node > 1:
        if ":" in settings.device:
            raise UsageError(f"--device {settings.device}: is one GPU, and {place.per_node} are asked for; say cuda")
        there = torch.cuda.device_count()
        if place.seeing(there).per_node > there:
            raise InputRefused(
                f"{place.per_node} processes on this node, and {there} GPUs; ask for as many GPUs (--gpus-per-node), "
                "or for fewer --devices"
            )
    return device


def compiled(model: nn.Module, device: torch.device, progress: Progress) -> nn.Module:
    """The network through torch.compile, or as it is, with a warning, where there is no compiler."""
    if not can_compile(device):
        progress.warn("--compile: torch.compile does not work here (it needs a C++ compiler); going on without it")
        return model
    # in this process: a pool of compiler processes would outlive a task that is stopped
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    return torch.compile(model)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    if not wanted:
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


@contextmanager
def _addressed(place: Placement) -> Iterator[None]:
    # Fabric's own plugin for Slurm refuses `srun -n 2`; in these words it takes any placement
    words: dict[str, object] = {"LOCAL_RANK": place.local_rank, "NODE_RANK": place.node, "WORLD_SIZE": place.world}
    if place.world == 1:
        words["LOCAL_RANK"] = None
    elif not place.launch:
        words |= {"MASTER_ADDR": place.address, "MASTER_PORT": place.port}
    with environment(**words):
        yield
