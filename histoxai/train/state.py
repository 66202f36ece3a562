"""A network with its optimizer, the average of its weights, and what of them a checkpoint has to hold."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from histoxai.core.progress import Progress
from histoxai.settings import Training
from histoxai.train.fabric import compiled

Tensors = dict[str, torch.Tensor]


class Learner:
    """`model` as Fabric trains it; calling it gives logits in float32 whatever the precision."""

    def __init__(self, model: nn.Module, settings: Training, fabric: Fabric, progress: Progress) -> None:
        self._fabric, self._clip = fabric, settings.clip
        self._plain = model.to(memory_format=torch.channels_last)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            synchronise_norms(self._plain)
        decay, weights = settings.weight_decay, self._plain.parameters()
        # a fused step undoes the scaling of fp16 by itself, after which nothing can be clipped
        fused = settings.precision != "fp16" or settings.clip is None
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(weights, lr=settings.lr, weight_decay=decay, fused=fused)
            if decay
            else torch.optim.Adam(weights, lr=settings.lr, fused=fused)
        )
        net = compiled(self._plain, fabric.device, progress) if settings.compile else self._plain
        self._model, self._optimizer = fabric.setup(net, optimizer)
        self._average: AveragedModel | None = None
        if settings.ema is not None:
            self._average = AveragedModel(self._plain, multi_avg_fn=averaging(settings.ema), use_buffers=True)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._model(images).float()

    def judged(self, images: torch.Tensor) -> torch.Tensor:
        """Outputs of the weights that are judged and kept: the averaged ones where there are such."""
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
            if self._fabric.world_size > 1:  # each process has seen other batches
                for buffer in self._average.module.buffers():
                    torch.distributed.broadcast(buffer, 0)

    def passing(self, last: bool) -> AbstractContextManager[Any]:
        """Around a pass forward and backward; processes add up their gradients in the last one before a step alone."""
        return self._fabric.no_backward_sync(self._model, enabled=not last)

    def backward(self, loss: torch.Tensor) -> None:
        """Add a loss's gradient."""
        self._fabric.backward(loss)

    def step(self, lr: float) -> None:
        """One step of the optimizer with the gradient so far, which is then forgotten."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self._clip is not None:
            # a gradient that is not finite shows in the next loss, which names its batch
            self._fabric.clip_gradients(self._model, self._optimizer, max_norm=self._clip, error_if_nonfinite=False)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self._plain)

    def weights(self) -> Tensors:
        """The judged weights, as a state dict."""
        return (self._plain if self._average is None else self._average.module).state_dict()

    def scaler(self) -> dict[str, Any]:
        """The state of fp16's loss scaling; empty in other precisions."""
        return dict(self._fabric.strategy.precision.state_dict())

    def tensors(self) -> Tensors:
        """All of it for a checkpoint."""
        found = {f"model.{k}": v for k, v in self._plain.state_dict().items()}
        for number, entries in self._optimizer.state_dict()["state"].items():
            found |= {f"adam.{number}.{k}": v for k, v in entries.items()}
        if self._average is not None:
            found |= {f"ema.{k}": v for k, v in self._average.state_dict().items()}
        return found

    def load(self, tensors: Tensors, scaler: dict[str, Any]) -> None:
        """The inverse of `tensors` and `scaler`."""
        self._plain.load_state_dict(_part(tensors, "model."))
        if self._average is not None:
            self._average.load_state_dict(_part(tensors, "ema."))
        self._fabric.strategy.precision.load_state_dict(scaler)
        inner = self._optimizer.state_dict()
        inner["state"] = {}
        weights = list(self._plain.parameters())
        for key, value in _part(tensors, "adam.").items():
            number, name = key.split(".")
            weight = weights[int(number)]
            # The fused step walks through memory: moments must lie there as their weights do.
            moment = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value
            inner["state"].setdefault(int(number), {})[name] = moment.detach()
        self._optimizer.load_state_dict(inner)


def averaging(decay: float) -> Any:
    """torch's exponential average, of numbers alone: what counts or points is copied, not averaged and cut off."""
    average = get_ema_multi_avg_fn(decay)

    def update(kept: Any, new: Any, steps: Any) -> None:
        if torch.is_floating_point(kept[0]):  # tensors come in groups of one type
            average(kept, new, steps)
        else:
            torch._foreach_copy_(kept, new)

    return update


def synchronise_norms(model: nn.Module) -> None:
    """Let BatchNorm take its statistics from all GPUs' patches, in place; frozen layers stay as they are."""
    for part in model.modules():
        for name, child in part.named_children():
            norm = isinstance(child, nn.modules.batchnorm._BatchNorm)
            if norm and not isinstance(child, nn.SyncBatchNorm) and any(w.requires_grad for w in child.parameters()):
                setattr(part, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
