"""The state that training changes and checkpoints hold: a network, its optimizer and the average of its weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from histoxai.core.progress import Progress
from histoxai.settings import Training
from histoxai.train.fabric import compile_model

Tensors = dict[str, torch.Tensor]


class TrainState:
    """A network with its optimizer and, with `--ema`, the moving average of its weights.

    Calling it with images (n, 3, H, W) gives logits in float32 whatever the precision.
    """

    def __init__(self, model: nn.Module, settings: Training, fabric: Fabric, progress: Progress) -> None:
        self._fabric, self._clip = fabric, settings.clip
        self._plain = model.to(memory_format=torch.channels_last)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            synchronise_norms(self._plain)
        optimizer = _optimizer(self._plain, settings)
        net = compile_model(self._plain, fabric.device, progress) if settings.compile else self._plain
        self._model, self._optimizer = fabric.setup(net, optimizer)
        self._average: AveragedModel | None = None
        if settings.ema is not None:
            self._average = AveragedModel(self._plain, multi_avg_fn=averaging(settings.ema), use_buffers=True)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._model(images).float()

    def evaluate(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the evaluation weights (the average if enabled)."""
        if self._average is None:
            return self(images)
        with self._fabric.autocast():
            return self._average.module(images).float()

    def train(self) -> None:
        self._model.train()

    def eval(self) -> None:
        self._model.eval()
        if self._average is not None:
            self._average.eval()
            if self._fabric.world_size > 1:  # each rank has averaged the statistics of other batches
                for buffer in self._average.module.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[Any]:
        """Surround a forward and backward pass; ranks add up their gradients in it only if `enabled`."""
        return self._fabric.no_backward_sync(self._model, enabled=not enabled)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a loss to the gradient so far."""
        self._fabric.backward(loss)

    def step(self, lr: float) -> None:
        """Make one optimizer step with the gradient so far, then reset the gradient."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self._clip is not None:
            # a gradient that is not finite shows in the next loss, whose error names the batch
            self._fabric.clip_gradients(self._model, self._optimizer, max_norm=self._clip, error_if_nonfinite=False)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self._plain)

    def evaluation_weights(self) -> Tensors:
        """Return the state dict of the evaluation weights (the average if enabled)."""
        return (self._plain if self._average is None else self._average.module).state_dict()

    def scaler(self) -> dict[str, Any]:
        """Return the state of fp16's loss scaling; empty in other precisions."""
        return dict(self._fabric.strategy.precision.state_dict())

    def tensors(self) -> Tensors:
        """Return weights, optimizer moments and averages as a checkpoint holds them."""
        tensors = {f"model.{k}": v for k, v in self._plain.state_dict().items()}
        for number, entries in self._optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{k}": v for k, v in entries.items()}
        if self._average is not None:
            tensors |= {f"ema.{k}": v for k, v in self._average.state_dict().items()}
        return tensors

    def load(self, tensors: Tensors, scaler: dict[str, Any]) -> None:
        """Restore what `tensors` and `scaler` returned."""
        self._plain.load_state_dict(_with_prefix(tensors, "model."))
        if self._average is not None:
            self._average.load_state_dict(_with_prefix(tensors, "ema."))
        self._fabric.strategy.precision.load_state_dict(scaler)
        optimizer_state = self._optimizer.state_dict()
        optimizer_state["state"] = {}
        weights = list(self._plain.parameters())
        for key, value in _with_prefix(tensors, "adam.").items():
            number, name = key.split(".")
            weight = weights[int(number)]
            # The fused step walks through memory: moments must lie there as their weights do.
            moment = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value
            optimizer_state["state"].setdefault(int(number), {})[name] = moment.detach()
        self._optimizer.load_state_dict(optimizer_state)


def _optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    # a fused step undoes the scaling of fp16 by itself, after which nothing can be clipped
    fused = settings.precision != "fp16" or settings.clip is None
    weights, decay = model.parameters(), settings.weight_decay
    if decay:
        return torch.optim.AdamW(weights, lr=settings.lr, weight_decay=decay, fused=fused)
    return torch.optim.Adam(weights, lr=settings.lr, fused=fused)


def averaging(decay: float) -> Any:
    """Return torch's exponential moving average for floats; counters and indices are copied, since averages truncate.

    For `AveragedModel(multi_avg_fn=...)`.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: Any, current: Any, steps: Any) -> None:
        if torch.is_floating_point(averaged[0]):  # tensors come in groups of one dtype
            average(averaged, current, steps)
        else:
            torch._foreach_copy_(averaged, current)

    return update


def synchronise_norms(model: nn.Module) -> None:
    """Let BatchNorm take its statistics from the patches of all GPUs, in place; frozen layers are left alone."""
    for part in model.modules():
        for name, child in part.named_children():
            norm = isinstance(child, nn.modules.batchnorm._BatchNorm)
            if norm and not isinstance(child, nn.SyncBatchNorm) and any(w.requires_grad for w in child.parameters()):
                setattr(part, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def _with_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
