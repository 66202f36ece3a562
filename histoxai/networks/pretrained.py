"""Load pretrained weights from a file into a network whose head may have other classes.

Nothing is unpickled: the file is safetensors, or torch's own format read with `weights_only` (tensors and containers).
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
# Share of the encoder's tensors that the file must have; with fewer it was made with another network.
LEAST = 0.5
_INSIDE = ("state_dict", "model", "model_state_dict", "teacher", "student")
_PREFIXES = ("module.", "model.", "net.", "backbone.", "encoder.")
_EXAMPLES = 3


def read_weights(path: Path) -> Tensors:
    """Return the tensors of a .safetensors, .pth or .pt file, by name.

    Raises InputRefused where there is no such file, or where it holds anything but tensors.
    """
    if not path.is_file():
        raise InputRefused(f"--weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers fail in many ways on files of another kind
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise InputRefused(
            f"--weights {path}: is no file of weights alone ({type(error).__name__}: {reason}); nothing in it was run. "
            "Save the network's state_dict() as .safetensors or .pth"
        ) from error
    inner = next(
        (content[k] for k in _INSIDE if isinstance(content, dict) and isinstance(content.get(k), dict)), content
    )
    tensors = {str(k): v for k, v in inner.items() if torch.is_tensor(v)} if isinstance(inner, dict) else {}
    if not tensors:
        raise InputRefused(f"--weights {path}: has no tensors by name; save the network's state_dict()")
    return tensors


def load_weights(model: nn.Module, path: Path, progress: Progress) -> dict[str, Any]:
    """Load a file's weights into a network, in place; the head stays random where the file's has other classes.

    Returns the record for `run.json`: file name, checksum, number of tensors `loaded`, names `missing` and
    `unexpected`, and `head`: "loaded" or "drawn anew". Raises InputRefused where a tensor has another shape or is not
    finite, or where the file has less than half of the encoder's tensors.
    """
    net = without_normalisation(model)
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = _without_prefixes(read_weights(path), own)
    head = {k for k in own if k.startswith(f"{net.head_layer}.")}
    keep_head = all(k in given and given[k].shape == own[k].shape for k in head)
    _resize_positions(net, given, own)
    fitting = {k: v for k, v in given.items() if k in own and (keep_head or k not in head)}
    _check_tensors(path, fitting, own)
    encoder = own.keys() - head
    if len(fitting.keys() & encoder) < LEAST * len(encoder):
        raise InputRefused(
            f"--weights {path}: has {len(fitting.keys() & encoder)} of the network's {len(encoder)} tensors; it names "
            f"them {_examples(given)}, the network {_examples(encoder)}; choose the --arch that the file was made with"
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
    _show(report, progress)
    return report


def _without_prefixes(given: Tensors, own: Tensors) -> Tensors:
    # remove prefixes that wrappers added to the names, as long as more of the names are then the network's
    while True:
        count = len(given.keys() & own.keys())
        candidates = [{k.removeprefix(p): v for k, v in given.items() if k.startswith(p)} for p in _PREFIXES]
        best = max(candidates, key=lambda t: _known_names(t, own))
        if not best or _known_names(best, own) <= count:
            return given
        given = best


def _known_names(tensors: Tensors, own: Tensors) -> int:
    # how many names the network has, also after removing one more prefix: `module.encoder.conv1.weight`
    deeper = [len({k.removeprefix(p) for k in tensors if k.startswith(p)} & own.keys()) for p in _PREFIXES]
    return max(len(tensors.keys() & own.keys()), *deeper)


def _resize_positions(net: nn.Module, given: Tensors, own: Tensors) -> None:
    # interpolate position embeddings (bicubic) to this network's grid, as torchvision's interpolate_embeddings does
    grid = getattr(net, "gradcam_grid", None)
    for name in ("encoder.pos_embedding", "pos_embed"):
        if grid is None or name not in own or name not in given or given[name].shape == own[name].shape:
            continue
        class_tokens = own[name].shape[1] - math.prod(grid)
        side = math.isqrt(max(0, given[name].shape[1] - class_tokens))
        if given[name].ndim != 3 or side == 0 or side * side != given[name].shape[1] - class_tokens:
            continue
        grid_tokens = given[name][:, class_tokens:].float().transpose(1, 2).unflatten(2, (side, side))
        resized = functional.interpolate(grid_tokens, size=grid, mode="bicubic", align_corners=True)
        given[name] = torch.cat([given[name][:, :class_tokens].float(), resized.flatten(2).transpose(1, 2)], dim=1)


def _check_tensors(path: Path, fitting: Tensors, own: Tensors) -> None:
    for name, value in fitting.items():
        if value.shape != own[name].shape:
            raise InputRefused(
                f"--weights {path}: {name} is {tuple(value.shape)}, and {tuple(own[name].shape)} in this network; "
                "choose the --arch that the file was made with"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputRefused(f"--weights {path}: {name} has values that are not finite; get the file again")


def _examples(names: Any) -> str:
    return ", ".join(sorted(names)[:_EXAMPLES])


def _show(report: dict[str, Any], progress: Progress) -> None:
    progress.say(f"{report['file']}: {report['loaded']} tensors loaded; the head is {report['head']}")
    for kind in ("missing", "unexpected"):
        if names := report[kind]:
            more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
            progress.warn(f"{report['file']}: {len(names)} {kind} tensors, such as {_examples(names)}{more}")


def freeze_encoder(model: nn.Module) -> None:
    """Freeze all but the head: weights and BatchNorm statistics stay, and dropout is off.

    Raises UsageError where the network does not name its head (`head_layer`).
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
            part.train = partial(_stay_in_eval, part)


def _stay_in_eval(part: nn.Module, mode: bool = True) -> nn.Module:
    # replaces `train` of a frozen part
    del mode
    return part
