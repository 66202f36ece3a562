"""Choose the patches that a page can show layer by layer, and encode their layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from histoxai.core.errors import UsageError
from histoxai.core.progress import Progress
from histoxai.core.provenance import keyed_seed
from histoxai.report.lineage import Lineage
from histoxai.report.page.payload import jpeg, packed
from histoxai.report.sections.base import ReportInputs
from histoxai.score.threshold_curves import levels

MAX_SIGNED_SIDE = 128  # px of signed evidence: it is only looked at, and noise does not compress


def positions_of(patch_ids: Sequence[str], known: np.ndarray) -> list[int]:
    """Return the positions of patches by id, for --show.

    Raises UsageError for an id that is not among the scored patches.
    """
    position = {patch_id: k for k, patch_id in enumerate(known.tolist())}
    if unknown := [i for i in patch_ids if i not in position]:
        raise UsageError(
            f"--show {unknown[0]}: no such patch among the scored ones, which `histoxai score --jsonl` lists"
        )
    return [position[i] for i in patch_ids]


def choose_patches(inputs: ReportInputs, required: Sequence[int]) -> list[int]:
    """Choose the patches to show, the most important first: `required` ones, then at most `--examples` in all.

    The study's examples are followed by, of each class in turn, the best and the worst patch by the mean of methods,
    the one on which methods differ most, and a random one.
    """
    most = inputs.settings.examples
    chosen = [i for row in inputs.examples for i in row if i is not None]
    for of_rank in zip_longest(*_rankings(inputs, most)):
        chosen += [i for i in of_rank if i is not None]
    first = list(dict.fromkeys(required))
    rest = [i for i in dict.fromkeys(chosen) if i not in set(first)]
    return first + rest[: max(0, most - len(first))]


def _rankings(inputs: ReportInputs, most: int) -> list[list[int]]:
    # positions by class, each ordered by mean down and up, by range, and by chance
    scores = inputs.results.scores
    of_mask = scores.of(inputs.primary)[:, :, inputs.axes["mask"].index(inputs.primary_mask)]
    mean, spread = _mean_and_range(of_mask[:, scores.real() or slice(None)])
    random = np.array([keyed_seed(0, "examples", i) for i in inputs.patch_id.tolist()], np.float64)
    rankings: list[list[int]] = []
    for code in np.unique(inputs.label):
        of_class = np.flatnonzero(inputs.label == code)
        for key in (-mean, mean, -spread, random):
            defined = of_class[np.isfinite(key[of_class])]
            rankings.append(defined[np.argsort(key[defined], kind="stable")][:most].tolist())
    return rankings


def _mean_and_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # over the methods of values (n, methods); NaN without a value, and a range without two
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of patches without a value
        mean, spread = np.nanmean(values, axis=1), np.nanmax(values, axis=1) - np.nanmin(values, axis=1)
    return mean, np.where(np.isfinite(values).sum(axis=1) > 1, spread, np.nan)


def encode_patches(lineage: Lineage, positions: Sequence[int], budget: int, progress: Progress) -> list[dict[str, Any]]:
    """Encode the layers of the first patches among `positions`, as many as fit into `budget` characters.

    A patch has its image as JPEG, its masks (bit 0 tumor, bit 1 non-tumor), and by method its map and signed evidence,
    None where a map is not finite.
    """
    progress.start("patches", len(positions))
    encoded: list[dict[str, Any]] = []
    for position in positions:
        layers = _encode(lineage, position)
        budget -= _length(layers)
        if budget < 0:
            break
        encoded.append(layers)
        progress.advance()
    progress.stop()
    return encoded


def _encode(lineage: Lineage, position: int) -> dict[str, Any]:
    patch, methods = lineage.masked_patches([position])[0], lineage.method_names
    return {
        "image": jpeg(patch.image),
        "masks": packed(patch.tumor.astype(np.uint8) | (patch.non_tumor.astype(np.uint8) << 1)),
        "maps": [_map_layer(lineage.rendered_maps(name, [position])[0]) for name in methods],
        "signed": [_signed_layer(lineage.signed_maps(name, [position])[0]) for name in methods],
    }


def _length(layers: dict[str, Any]) -> int:
    planes = [m for m in layers["maps"] if m] + [s["plane"] for s in layers["signed"] if s]
    return sum(len(text) for text in (layers["image"], layers["masks"], *planes))


def _map_layer(plane: np.ndarray) -> str | None:
    # at each pixel the number of thresholds 0, 0.01, ... below its value, as scores count them
    if not np.isfinite(plane).all():
        return None
    return packed(levels(plane).astype(np.uint8).reshape(plane.shape))


def _signed_layer(evidence: np.ndarray) -> dict[str, Any] | None:
    # 127 is zero and 254 is `most`, the largest absolute value; size: H, W
    if not np.isfinite(evidence).all():
        return None
    # averaged over squares of `step` px, so that no side is longer than MAX_SIGNED_SIDE
    step = -(-max(evidence.shape) // MAX_SIGNED_SIDE)
    height, width = (-(-n // step) for n in evidence.shape)
    padding = [(0, n * step - m) for n, m in zip((height, width), evidence.shape, strict=True)]
    padded = np.pad(evidence.astype(np.float64), padding)
    small = padded.reshape(height, step, width, step).mean(axis=(1, 3))
    most = float(np.abs(small).max())
    scaled = np.round(127 + 127 * small / most) if most else np.full(small.shape, 127.0)
    return {"plane": packed(scaled.astype(np.uint8)), "size": [height, width], "most": f"{most:.3g}"}
