"""Networks in run folders: weights as safetensors, and the recipe in `run.json` that rebuilds them.

Nothing is ever unpickled, and only registered architectures can be built: a run folder from elsewhere
cannot make us run code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from histoxai.core import provenance, registry
from histoxai.core.errors import InputRefused, UsageError
from histoxai.networks.normalisation import Normalised
from histoxai.networks.run_folder import RUN, SCHEMA, WEIGHTS, Run
from histoxai.store.records import with_checksum
from histoxai.store.storage.files import write_atomically, write_json


def load_model(run: Run, device: torch.device) -> nn.Module:
    """Rebuild a run's network in evaluation mode, channels last.

    Raises InputRefused where the weights are missing, changed, or do not fit the recipe.
    """
    path = run.path / WEIGHTS
    if not path.is_file():
        raise InputRefused(f"{path}: missing; {run.remedy}")
    if provenance.file_checksum(path) != run.facts["weights"]["checksum"]:
        raise InputRefused(f"{path}: is not the file that {RUN} describes (checksum differs); {run.remedy}")
    try:
        registry.resolve_name(run.facts["kind"], run.facts["arch"])
        tensors = safetensors.torch.load_file(path)
        _require_shapes(run.facts, tensors)
        model = build(run.facts)
        model.load_state_dict(tensors)
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError, UsageError) as error:
        raise InputRefused(f"{path}: does not fit {RUN}: {str(error).splitlines()[0]}") from error
    return model.to(device, memory_format=torch.channels_last).eval()


def _require_shapes(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a recipe asks for other tensors than there are, before memory is taken for them.

    On torch's device `meta`, which has shapes and no numbers. Networks of other libraries are as large as their names
    say and no larger.
    """
    if ":" in facts["arch"]:
        return
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in build(facts).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        name = next(n for n in sorted(wanted.keys() | found.keys()) if wanted.get(n) != found.get(n))
        raise ValueError(f"{name} is {found.get(name, 'missing')}, and {wanted.get(name, 'unknown')} by the recipe")


def build(facts: dict[str, Any]) -> nn.Module:
    """A network from a recipe: kind, registered name and plain arguments; `normalise` is its first layer."""
    recipe = dict(facts["recipe"])
    normalise = recipe.pop("normalise", None)
    if "size" in recipe:
        recipe["size"] = tuple(recipe["size"])
    net = registry.resolve(facts["kind"], facts["arch"])(**recipe)
    return net if normalise is None else Normalised(net, normalise)


def finish(path: Path, facts: dict[str, Any], model: nn.Module) -> Run:
    """Write weights and `run.json`, in this order: a folder with a `run.json` is complete."""
    save_tensors(path / WEIGHTS, model.state_dict())
    size = (path / WEIGHTS).stat().st_size
    weights = {"file": WEIGHTS, "bytes": size, "checksum": provenance.file_checksum(path / WEIGHTS)}
    facts = {"schema": SCHEMA, **facts, "weights": weights}
    write_json(path / RUN, with_checksum(provenance.plain(facts)))
    return Run(path, json.loads((path / RUN).read_bytes()))


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Tensors as a safetensors file, atomically; plain memory layout, so that equal weights are equal bytes."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain))
