"""Load pretrained weights from a file into a network whose head may have other classes.

Nothing is unpickled: the file is safetensors, or torch's own format read with `weights_only` (tensors and containers).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
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
# The only kinds of number that are weights as they are: others need a scale that is not in a state_dict.
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Dicts and wrappers to take first where several hold the network, such as a teacher and a student.
_FIRST = ("state_dict", "model", "model_state_dict", "teacher", "student")
# Parts of names that wrappers add anywhere: torch.compile, FSDP, activation checkpoints.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Endings of tensors that are no weights: counters, and tables that follow from the architecture.
_NO_WEIGHTS = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")
# First parts of names of layers that only a training task has: classifiers, and projections of self-supervision.
_HEADS = ("head", "heads", "fc", "classifier", "last_linear", "projector", "predictor", "prototypes")
_EXAMPLES = 3
_DEEPEST = 8  # dicts inside dicts


def read_weights(path: Path) -> Tensors:
    """Return the tensors of a .safetensors, .pth or .pt file, by name; names of nested dicts are joined by dots.

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
    tensors = dict(_named(content, ""))
    if not tensors:
        raise InputRefused(f"--weights {path}: has no tensors by name; save the network's state_dict()")
    return tensors


def _named(content: Any, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    # all tensors of dicts inside dicts
    if isinstance(content, dict) and prefix.count(".") < _DEEPEST:
        for key, value in content.items():
            if torch.is_tensor(value):
                yield f"{prefix}{key}", value
            else:
                yield from _named(value, f"{prefix}{key}.")


@dataclass(frozen=True)
class _Gaps:
    """Names of tensors that the encoder is missing, that the file has beyond it, and those of the file's heads."""

    missing: Set[str]
    unexpected: Set[str]
    heads: Set[str]

    @property
    def partial(self) -> bool:
        return bool(self.missing or self.unexpected)


def load_weights(model: nn.Module, path: Path, progress: Progress, allow_partial: bool = False) -> dict[str, Any]:
    """Load a file's weights into a network, in place; the head stays random where the file's has other classes.

    allow_partial: go on where encoder tensors are missing or unexpected, up to half of them.

    Returns the record for `run.json`: file name, checksum, `prefix` of the names in the file, number of tensors
    `loaded`, names `missing` and `unexpected`, `partial`: whether one of these is of the encoder, and `head`: "loaded"
    or "drawn anew". Raises InputRefused where a tensor has another shape, is not finite or no floating-point number, or
    where the file is not of this network's encoder.
    """
    net = without_normalisation(model)
    state = _weights_only(net.state_dict())
    own = {k: v for k, v in state.items() if v.is_floating_point()}
    prefix, given = _without_prefix(path, _weights_only(read_weights(path)), own, progress)
    given = {k: v for k, v in given.items() if k in own or k not in state}  # tables are the network's own
    head = {k for k in own if k.startswith(f"{net.head_layer}.")}
    keep_head = all(k in given and given[k].shape == own[k].shape for k in head)
    fitting = {k: v for k, v in given.items() if k in own and (keep_head or k not in head)}
    _check_numbers(path, fitting)
    _resize_positions(net, fitting, own)
    encoder = own.keys() - head
    _require_half(path, encoder, given, fitting)
    _check_shapes(path, fitting, own)
    gaps = _find_gaps(encoder, {k: v for k, v in given.items() if k not in head}, fitting)
    if gaps.partial and not allow_partial:
        raise InputRefused(f"--weights {path}: {_describe_gaps(gaps, own.keys(), given.keys())}")
    net.load_state_dict(fitting, strict=False)
    report = {
        "file": path.name,
        "checksum": provenance.file_checksum(path),
        "prefix": prefix,
        "loaded": len(fitting),
        "missing": sorted(gaps.missing),
        "unexpected": sorted(gaps.unexpected | gaps.heads),
        "partial": gaps.partial,
        "head": "loaded" if keep_head else "drawn anew",
    }
    _show(report, progress)
    return report


def _weights_only(tensors: Tensors) -> Tensors:
    # without counters and tables, and without what wrappers put inside names
    kept = {k: v for k, v in tensors.items() if not k.endswith(_NO_WEIGHTS)}
    return {".".join(part for part in k.split(".") if part not in _WRAPPERS): v for k, v in kept.items()}


def _without_prefix(path: Path, given: Tensors, own: Tensors, progress: Progress) -> tuple[str, Tensors]:
    """Return the prefix behind which most names are the network's, and the tensors without it.

    Says which one is taken where several hold as much, and how many tensors lie outside.
    """
    known: Counter[str] = Counter()
    for name in given:
        parts = name.split(".")
        for k in range(len(parts)):
            known[".".join([*parts[:k], ""])] += ".".join(parts[k:]) in own
    most = max(known.values(), default=0)
    best = sorted((p for p, count in known.items() if count == most), key=_preference) if most else [""]
    inside = {k.removeprefix(best[0]): v for k, v in given.items() if k.startswith(best[0])}
    if len(best) > 1:
        progress.say(f"{path.name}: takes {best[0] or 'the outer tensors'}, not {', '.join(best[1:])}")
    elif len(inside) < len(given):
        outside = [k for k in given if not k.startswith(best[0])]
        progress.say(
            f"{path.name}: takes {best[0]}, and leaves out {len(outside)} tensors, such as {_examples(outside)}"
        )
    return best[0], inside


def _preference(prefix: str) -> tuple[int, int]:
    first = prefix.partition(".")[0]
    return _FIRST.index(first) if first in _FIRST else len(_FIRST), len(prefix)


def _require_half(path: Path, encoder: Set[str], given: Tensors, fitting: Tensors) -> None:
    if len(fitting.keys() & encoder) < LEAST * len(encoder):
        raise InputRefused(
            f"--weights {path}: has {len(fitting.keys() & encoder)} of the network's {len(encoder)} tensors; it names "
            f"them {_examples(given)}, the network {_examples(encoder)}; choose the --arch that the file was made with"
        )


def _find_gaps(encoder: Set[str], given: Tensors, fitting: Tensors) -> _Gaps:
    # the file's tensors that fit nowhere; a head that the network draws anew is no gap
    beyond = given.keys() - fitting.keys() - encoder
    heads = {k for k in beyond if _is_head(k)}
    return _Gaps(encoder - fitting.keys(), beyond - heads, heads)


def _is_head(name: str) -> bool:
    first = name.partition(".")[0]
    return first in _HEADS or first.endswith("_head")


def _describe_gaps(gaps: _Gaps, own: Set[str], given: Set[str]) -> str:
    missing, unexpected = gaps.missing, gaps.unexpected
    lists = [
        f"{len(names)} tensors {words}" + (f" ({_examples(names)})" if names else "")
        for names, words in ((missing, "of the encoder are missing"), (unexpected, "are none of this network"))
    ]
    return (
        f"{', '.join(lists)}; {_likely_cause(missing, unexpected, own, given)}; choose the --arch that the file was "
        "made with, or say --allow-partial-weights, which goes on record"
    )


def _likely_cause(missing: Set[str], unexpected: Set[str], own: Set[str], given: Set[str]) -> str:
    # the first that explains a gap, from the particular to the general
    for pattern, words in _PARTS.items():
        if any(re.search(pattern, k) for k in unexpected):
            return f"the file's network has {words}, which this one lacks"
        if any(re.search(pattern, k) for k in missing):
            return f"this network has {words}, which the file's lacks"
    if unexpected and not missing:
        deeper = _without_numbers(unexpected) <= _without_numbers(own)
        return "the file's network is deeper" if deeper else "the file's network has layers that this one lacks"
    if missing and not unexpected:
        deeper = _without_numbers(missing) <= _without_numbers(given)
        return "this network is deeper, or the file is one of several parts" if deeper else "the file is incomplete"
    return "the file is of another variant of this network"


# Parts of networks that look alike otherwise, by a pattern of their tensors' names.
_PARTS = {
    r"(^|\.)(ls[12]|layer_scale\w*|gamma_[12])(\.|$)": "LayerScale",
    r"(^|\.)(reg_token|register_tokens)$": "register tokens",
    r"(^|\.)(q_norm|k_norm)\.": "normalised queries and keys",
    r"(^|\.)mask_token$": "a mask token",
    r"(^|\.)(cls_token|class_token|dist_token)$": "a class token",
}


def _without_numbers(names: Set[str]) -> set[str]:
    return {re.sub(r"\d+", "#", name) for name in names}


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


def _check_numbers(path: Path, tensors: Tensors) -> None:
    for name, value in tensors.items():
        if value.dtype not in FLOATING or value.layout != torch.strided or value.is_meta:
            kind = str(value.dtype).removeprefix("torch.") + ("" if value.layout == torch.strided else ", sparse")
            raise InputRefused(
                f"--weights {path}: {name} is {kind}; only float16, bfloat16, float32 and float64 are loaded, since "
                "others mean nothing without their scale; save the weights as float32, not quantised"
            )
        if not torch.isfinite(value.float()).all():
            raise InputRefused(f"--weights {path}: {name} has values that are not finite; get the file again")


def _check_shapes(path: Path, fitting: Tensors, own: Tensors) -> None:
    for name, value in fitting.items():
        if value.shape != own[name].shape:
            raise InputRefused(
                f"--weights {path}: {name} is {tuple(value.shape)}, and {tuple(own[name].shape)} in this network; "
                "choose the --arch that the file was made with"
            )


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
