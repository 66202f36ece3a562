"""Save networks to run folders and rebuild them: weights as safetensors, and a recipe in `run.json`.

Nothing is ever unpickled, and only registered architectures can be built: a run folder from a stranger cannot run code.
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
    """Rebuild the network of a run in evaluation mode, channels last.

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
    """Raise ValueError where the recipe needs other tensors than the file has, before any memory is allocated.

    The network is built on torch's device `meta`, which allocates nothing. Networks of other libraries (`timm:`,
    `smp:`) are skipped: their size follows from their name.
    """
    if ":" in facts["arch"]:
        return
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in build(facts).state_dict().items()}
    stored = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != stored:
        name = next(n for n in sorted(expected.keys() | stored.keys()) if expected.get(n) != stored.get(n))
        raise ValueError(f"{name} is {stored.get(name, 'missing')}, and {expected.get(name, 'unknown')} by the recipe")


def build(facts: dict[str, Any]) -> nn.Module:
    """Build a network with random weights from the recipe in `run.json`; `normalise` in it adds a first layer.

    A recipe that names no version is of the first one.
    """
    recipe = dict(facts["recipe"])
    normalise = recipe.pop("normalise", None)
    if facts["arch"] in registry.RECIPE_VERSIONS:
        recipe.setdefault("version", 1)
    if "size" in recipe:
        recipe["size"] = tuple(recipe["size"])
    net = registry.resolve(facts["kind"], facts["arch"])(**recipe)
    return net if normalise is None else Normalised(net, normalise)


def finish(path: Path, facts: dict[str, Any], model: nn.Module) -> Run:
    """Write weights, then `run.json`: a folder with a `run.json` is complete."""
    save_tensors(path / WEIGHTS, model.state_dict())
    size = (path / WEIGHTS).stat().st_size
    weights = {"file": WEIGHTS, "bytes": size, "checksum": provenance.file_checksum(path / WEIGHTS)}
    facts = {"schema": SCHEMA, **facts, "weights": weights}
    write_json(path / RUN, with_checksum(provenance.plain(facts)))
    return Run(path, json.loads((path / RUN).read_bytes()))


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically, in plain memory layout, so that equal weights give equal bytes."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain))
