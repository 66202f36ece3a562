"""Open and check the inputs of `explain`: patches, classifier, targets, nuclei, micro-batch and compiler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core.errors import Incomplete, InputRefused, UsageError
from histoxai.core.progress import Progress
from histoxai.explain.bases.method import Method
from histoxai.explain.network import Network, can_compile, fits_on_gpu, largest_that_fits, micro_batch_for_cpu
from histoxai.networks.run_folder import Run, open_run
from histoxai.settings import Explain
from histoxai.store.parents import join_rows
from histoxai.store.patches import Patches
from histoxai.store.shards import Store, open_store
from histoxai.store.state import rows_done
from histoxai.store.storage.files import read_json


@dataclass(frozen=True)
class ExplainInputs:
    """Paths of the inputs of `explain`: patch store, classifier's run folder, and a masks store if nuclei are used."""

    patches: Path
    model: Path
    masks: Path | None = None


@dataclass(frozen=True)
class Nuclei:
    """A masks store, and the row in it of each explained patch."""

    masks: Store
    rows: np.ndarray

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Probabilities (n, 2, H, W) of nuclei of the patches at `positions` among the explained ones."""
        return self.masks.take("probability", self.rows[positions])


def wants_nuclei(explainer: Method) -> bool:
    """Whether a method takes its segments from a masks store."""
    return getattr(explainer.options, "segments", "") == "nuclei"


def open_patches_and_run(paths: ExplainInputs, progress: Progress) -> tuple[Patches, Run]:
    """Open the patch store and the classifier's run folder.

    Raises InputRefused if the classifier has other classes, or was trained on patches of another size.
    """
    patches, run = Patches(paths.patches), open_run(paths.model, "classifier")
    if patches.classes != run.facts["classes"]:
        raise InputRefused(
            f"{run.path}: was trained for the classes {', '.join(run.facts['classes'])}; {patches.path} has "
            f"{', '.join(patches.classes) or 'none'}"
        )
    if list(patches.size) != run.facts["size"]:
        h, w = run.facts["size"]
        raise InputRefused(
            f"{run.path}: was trained on patches of {w} x {h} px; {patches.path} has "
            f"{patches.size[1]} x {patches.size[0]}"
        )
    if run.notice:
        progress.warn(run.notice)
    if run.facts["parents"]["patches"]["digest"] != patches.digest:
        progress.warn(
            f"{run.path} was trained on another patch store than {patches.path}: its test patches may have been "
            "trained on"
        )
    return patches, run


def targets_of(target: str, patches: Patches, rows: np.ndarray) -> np.ndarray | None:
    """Class number (n,) that is explained of each row; None for the predicted class.

    Raises UsageError for an unknown class, InputRefused if `target` is "label" and patches have none.
    """
    if target == "predicted":
        return None
    if target == "label":
        if (unknown := patches.label[rows] < 0).any():
            raise InputRefused(
                f"{patches.path}: {int(unknown.sum())} of {len(rows)} patches have no label; use --target predicted"
            )
        return patches.label[rows]
    if target not in patches.classes:
        raise UsageError(f"--target {target}: expected predicted, label or one of {', '.join(patches.classes)}")
    return np.full(len(rows), patches.classes.index(target))


def open_nuclei(path: Path | None, explainers: dict[str, Method], patches: Patches, rows: np.ndarray) -> Nuclei | None:
    """Open the masks store if a method takes its segments from there.

    Raises UsageError if it is missing or not needed, InputRefused if it was made of other patches, Incomplete if masks
    of some rows are missing.
    """
    names = [name for name, explainer in explainers.items() if wants_nuclei(explainer)]
    if not names:
        if path is not None:
            raise UsageError("--masks: no method asks for nuclei; add -O lime.segments=nuclei")
        return None
    if path is None:
        raise UsageError(f"-O {names[0]}.segments=nuclei: takes nuclei from a masks store; name it with --masks")
    masks = open_store(path, "masks", "masks")
    if masks.header["parents"]["patches"]["digest"] != patches.digest:
        raise InputRefused(
            f"{path}: has the masks of another patch store than {patches.path}; run `histoxai masks` on the one that "
            "is explained"
        )
    return Nuclei(masks, _rows_of_masks(masks, patches, rows))


def _rows_of_masks(masks: Store, patches: Patches, rows: np.ndarray) -> np.ndarray:
    ids, mask_ids = patches.patch_id[rows], masks.read("patch_id")
    joined = join_rows(ids, mask_ids)
    if len(absent := ids[joined < 0]):
        raise Incomplete(
            f"{masks.path}: has no mask of {len(absent)} of {len(ids)} patches, such as {absent[0]}; run "
            f"`histoxai masks` on {patches.path} with the same --split"
        )
    state = masks.completeness()["masks"]
    if state["rows"] != len(mask_ids) or not rows_done(state)[joined].all():
        masks.require_complete()
    return joined


def stored_settings(output: Path) -> dict[str, Any]:
    """Settings in the header of an existing maps store; empty if there is none."""
    content = read_json(output / "zarr.json")
    try:
        return dict(content["attributes"]["histoxai"]["settings"])
    except (TypeError, KeyError, ValueError):
        return {}


def use_compiler(device: torch.device, stored: dict[str, Any], output: Path, progress: Progress) -> bool:
    """Whether `--compile` takes effect: an existing store decides, then whether torch.compile works here.

    Raises InputRefused if the store was begun with it and it does not work here.
    """
    if stored.get("compile") is False:
        progress.warn(f"--compile: {output} was begun without it; going on without")
        return False
    if can_compile(device):
        return True
    if stored.get("compile"):
        raise InputRefused(
            f"{output}: was begun with --compile, and torch.compile does not work here (it needs a C++ compiler); run "
            "this on a machine like the first"
        )
    progress.warn("--compile: torch.compile does not work here (it needs a C++ compiler); going on without it")
    return False


def micro_batch_of(
    settings: Explain, module: torch.nn.Module, size: tuple[int, int], stored: dict[str, Any], progress: Progress
) -> int:
    """Rows of a pass: as asked for, as the store has it, as many as pay off, or as many as fit on the GPU."""
    if settings.micro_batch is not None:
        return settings.micro_batch
    if isinstance(stored.get("micro_batch"), int):
        return int(stored["micro_batch"])
    device = next(module.parameters()).device
    if device.type != "cuda":
        return micro_batch_for_cpu(module, size)
    fitting = largest_that_fits(fits_on_gpu(Network(module, 1, settings.precision), size))
    torch.cuda.empty_cache()  # for other processes on this GPU
    progress.say(f"{device}: micro-batches of {fitting} patches fit")
    return fitting
