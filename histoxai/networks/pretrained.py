"""Weights from a file on disk into a network: what fits, what does not, and a head of our classes.

Nothing is unpickled: safetensors, or torch's files read with `weights_only`, which knows tensors and plain containers.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from histoxai.core import provenance
from histoxai.core.errors import InputRefused, UsageError, is_out_of_memory
from histoxai.core.progress import Progress
from histoxai.networks.normalisation import without_normalisation

Tensors = dict[str, torch.Tensor]
# Of the encoder's tensors; with fewer it is another network's file.
LEAST = 0.5
_INSIDE = ("state_dict", "model", "model_state_dict", "teacher", "student")
_PREFIXES = ("module.", "model.", "net.", "backbone.", "encoder.")
_EXAMPLES = 3


def read_weights(path: Path) -> Tensors:
    """The tensors of a .safetensors, .pth or .pt file, by name.

    Raises InputRefused where there is no such file, or it holds anything but tensors.
    """
    if not path.is_file():
        raise InputRefused(f"--weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers fail in many ways on files that are not theirs
        if is_out_of_memory(error):
            raise
        why = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise InputRefused(
            f"--weights {path}: is no file of weights alone ({type(error).__name__}: {why}); nothing in it was run. "
            "Save the network's state_dict() as .safetensors or .pth"
        ) from error
    inner = next((found[k] for k in _INSIDE if isinstance(found, dict) and isinstance(found.get(k), dict)), found)
    tensors = {str(k): v for k, v in inner.items() if torch.is_tensor(v)} if isinstance(inner, dict) else {}
    if not tensors:
        raise InputRefused(f"--weights {path}: has no tensors by name; save the network's state_dict()")
    return tensors


def load_weights(model: nn.Module, path: Path, progress: Progress) -> dict[str, Any]:
    """Put a file's weights into a network, in place; the head stays as drawn where it has other classes.

    Returns what goes on record: file name, checksum, number of tensors `loaded`, names `missing` and `unexpected`, and
    `head`: "loaded" or "drawn anew". Raises InputRefused where a tensor has another shape or is not finite, or where
    less than half of the encoder's tensors are there.
    """
    net = without_normalisation(model)
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = _stripped(read_weights(path), own)
    head = {k for k in own if k.startswith(f"{net.head_layer}.")}
    keep_head = all(k in given and given[k].shape == own[k].shape for k in head)
    _fit_positions(net, given, own)
    fitting = {k: v for k, v in given.items() if k in own and (keep_head or k not in head)}
    _check(path, fitting, own)
    encoder = own.keys() - head
    if len(fitting.keys() & encoder) < LEAST * len(encoder):
        raise InputRefused(
            f"--weights {path}: has {len(fitting.keys() & encoder)} of the network's {len(encoder)} tensors; it names "
            f"them {_some(given)}, the network {_some(encoder)}; choose the --arch that the file was made with"
        )
    net.load_state_dict(fitting, strict=False)
    report = {
        "file": path.name,
        "checksum": provenance.file_checksum(path),
        "loaded": len(fitting),
        "missing": sorted(encoder - fitting.keys()),
        "unexpected": sorted(k for k in given if k not in own and not k.endswith("num_batches_tracked")),
        "head": "loaded" if keep_head else "drawn anew",
    }
    _tell(report, progress)
    return report


def _stripped(given: Tensors, own: Tensors) -> Tensors:
    # without what wrappers put before the names, as long as that makes more of them known
    while True:
        count = len(given.keys() & own.keys())
        tries = [{k.removeprefix(p): v for k, v in given.items() if k.startswith(p)} for p in _PREFIXES]
        best = max(tries, key=lambda t: _known_after(t, own))
        if not best or _known_after(best, own) <= count:
            return given
        given = best


def _known_after(tensors: Tensors, own: Tensors) -> int:
    # known names, also behind one more prefix: `module.encoder.conv1.weight`
    deeper = [len({k.removeprefix(p) for k in tensors if k.startswith(p)} & own.keys()) for p in _PREFIXES]
    return max(len(tensors.keys() & own.keys()), *deeper)


def _fit_positions(net: nn.Module, given: Tensors, own: Tensors) -> None:
    # a transformer's embeddings of places, bicubic at our grid, as torchvision's interpolate_embeddings makes them
    grid = getattr(net, "gradcam_grid", None)
    for name in ("encoder.pos_embedding", "pos_embed"):
        if grid is None or name not in own or name not in given or given[name].shape == own[name].shape:
            continue
        before = own[name].shape[1] - math.prod(grid)
        side = math.isqrt(max(0, given[name].shape[1] - before))
        if given[name].ndim != 3 or side == 0 or side * side != given[name].shape[1] - before:
            continue
        places = given[name][:, before:].float().transpose(1, 2).unflatten(2, (side, side))
        fitted = functional.interpolate(places, size=grid, mode="bicubic", align_corners=True)
        given[name] = torch.cat([given[name][:, :before].float(), fitted.flatten(2).transpose(1, 2)], dim=1)


def _check(path: Path, fitting: Tensors, own: Tensors) -> None:
    for name, value in fitting.items():
        if value.shape != own[name].shape:
            raise InputRefused(
                f"--weights {path}: {name} is {tuple(value.shape)}, and {tuple(own[name].shape)} in this network; "
                "choose the --arch that the file was made with"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputRefused(f"--weights {path}: {name} has values that are not finite; get the file again")


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:_EXAMPLES])


def _tell(report: dict[str, Any], progress: Progress) -> None:
    progress.say(f"{report['file']}: {report['loaded']} tensors loaded; the head is {report['head']}")
    for kind in ("missing", "unexpected"):
        if names := report[kind]:
            more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
            progress.warn(f"{report['file']}: {len(names)} {kind} tensors, such as {_some(names)}{more}")


def freeze_encoder(model: nn.Module) -> None:
    """Train the head alone: all else keeps its weights and its statistics, and runs as in evaluation.

    Raises UsageError where the network names no head.
    """
    head = getattr(model, "head_layer", None)
    if head is None:
        raise UsageError("--freeze encoder: this network has no head of its own; train all of it")
    for name, part in model.named_modules():
        inside = name == head or name.startswith(f"{head}.")
        if not inside:
            for weight in part.parameters(recurse=False):
                weight.requires_grad_(False)
        if not inside and name and not head.startswith(f"{name}."):
            part.eval()
            part.train = partial(_stay, part)


def _stay(part: nn.Module, mode: bool = True) -> nn.Module:
    # `train` of a frozen part
    del mode
    return part
