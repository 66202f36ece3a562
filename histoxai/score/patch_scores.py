"""Score the maps of one patch, and fill its row in every array of a scores store.

The built-in profiles share arrays. `values`: the study's seven measures in both profiles. `measures`: all other
measures of the corrected profile. `chance`: the chance of all measures of the corrected profile. Each further profile
has arrays of its own, `profiles/<name>/values` and `profiles/<name>/chance`. `tissue`: counts of each map against the
patch's tissue, in stores that were scored with the patches at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from histoxai.core import registry
from histoxai.explain.maps_store import StoredMethod
from histoxai.score.measures.base import NAN, PatchMasks, RenderedMap
from histoxai.score.profiles.base import Profile, array_path
from histoxai.score.profiles.corrected import CorrectedProfile
from histoxai.score.profiles.thesis import ThesisProfile, lines_of, stretched_counts, values_of
from histoxai.score.threshold_curves import levels, threshold_histogram
from histoxai.settings import Score
from histoxai.statistics.confusion import COUNTS, confusion_counts
from histoxai.store.schema import MASKS, ArraySpec
from histoxai.store.shards import Item

PATCHES_PER_STEP = 16  # patches whose maps are in memory at once
BUILT_IN = ("corrected", "thesis")  # they share arrays
TISSUE = "tissue"  # an array
STUDY = tuple(m.name for m in ThesisProfile.measures())  # measures of the axis `metric`

Arrays = dict[str, np.ndarray]


def further_profiles() -> dict[str, type[Profile]]:
    """Return the registered profiles beyond the built-in ones."""
    return {n: registry.resolve("profile", n) for n in registry.names("profile") if n not in BUILT_IN}


def score_axes(methods: list[StoredMethod]) -> dict[str, Any]:
    """Return the names along the axes of a scores store's arrays, for its header."""
    measures = [m.name for m in CorrectedProfile.measures()]
    axes: dict[str, Any] = {
        "method": [m.name for m in methods],
        "mask": list(MASKS),
        "profile": list(BUILT_IN),
        "metric": list(STUDY),
        "measure": [m for m in measures if m not in STUDY],
        "chance": measures,
        "count": list(COUNTS),
    }
    further = {name: [m.name for m in kind.measures()] for name, kind in further_profiles().items()}
    return axes | ({"profiles": further} if further else {})


@dataclass(frozen=True)
class ScoreSizes:
    """Sizes of a scores store: patches, classes, lines of a mask, and patches of a shard."""

    patches: int
    classes: int
    height: int
    shard: int


def score_item(axes: dict[str, Any], sizes: ScoreSizes, with_tissue: bool) -> Item:
    """Return the work item of a scores store: all arrays; axes: from `score_axes`."""
    pairs = (len(axes["method"]), len(axes["mask"]))
    counts = len(axes["count"])
    shapes: dict[str, tuple[tuple[int, ...], Any, Any]] = {
        "values": ((*pairs, len(axes["profile"]), len(axes["metric"])), np.float64, NAN),
        "measures": ((*pairs, len(axes["measure"])), np.float64, NAN),
        "chance": ((*pairs, len(axes["chance"])), np.float64, NAN),
        "flags": (pairs, np.uint8, 0),
        "counts": ((*pairs, counts), np.int64, 0),
        "stretched": ((*pairs, counts), np.int64, 0),
        "union": ((pairs[0], counts), np.int64, 0),
        "curves": ((*pairs, 2, 102), np.int32, 0),
        "mask_curves": ((*pairs, 2, 102), np.int32, 0),
        "lines": ((pairs[1], sizes.height), np.uint16, 0),
        "logits": ((sizes.classes,), np.float32, NAN),
    }
    if with_tissue:
        shapes[TISSUE] = ((pairs[0], counts), np.int64, 0)
    for name, measures in axes.get("profiles", {}).items():
        for kind in ("values", "chance"):
            shapes[array_path(name, kind)] = ((*pairs, len(measures)), np.float64, NAN)
    return Item(
        "scores",
        tuple(ArraySpec(k, (sizes.patches, *s), t, sizes.shard, f) for k, (s, t, f) in shapes.items()),
        _plugin_parameters(axes) | ({TISSUE: True} if with_tissue else {}),
        rows_per_step=PATCHES_PER_STEP,
    )


def _plugin_parameters(axes: dict[str, Any]) -> dict[str, Any]:
    """Return the plugins that columns depend on: packages of measures, and measures of further profiles.

    They become parameters of the work item, so that a task with other plugins is refused. Empty without plugins.
    """
    origins = {name: registry.origin("measure", name) for name in axes["chance"] if name in registry.names("measure")}
    packages = {name: package for name, package in origins.items() if package != registry.OWN}
    parameters = {"measures": packages, "profiles": axes.get("profiles", {})}
    return {key: value for key, value in parameters.items() if value}


@dataclass(frozen=True)
class PatchScorer:
    """Score all maps of a patch in all registered profiles."""

    methods: list[StoredMethod]
    settings: Score

    def fill(self, raw: list[Arrays], probabilities: np.ndarray, out: Arrays, tissue: np.ndarray | None = None) -> None:
        """Fill one patch's row of every array.

        raw: the arrays of each method's map, each with one row. probabilities (masks, H, W): its masks. out: rows of
        the arrays of `score_item`, without the patch axis. tissue (H, W) bool: where `out` has such counts.
        """
        masks = PatchMasks.of(probabilities, self.settings.mask_threshold)
        out["lines"][:] = lines_of(masks)
        grey = [levels(mask.probability) for mask in masks] if self._all else []
        for j, method in enumerate(self.methods):
            views = self._views(method, raw[j], masks)
            self._fill_built_in(views, {k: a[j] for k, a in out.items() if k not in ("lines", "logits")}, grey)
            if tissue is not None:
                found = views["corrected"].found
                out[TISSUE][j] = confusion_counts(found.ravel(), tissue.reshape(1, -1))[0]
            for name, kind in further_profiles().items():
                values, chance = kind().score(views[name])
                out[array_path(name, "values")][j], out[array_path(name, "chance")][j] = values, chance

    @property
    def _all(self) -> bool:
        return self.settings.measures == "all"

    def _views(self, method: StoredMethod, raw: Arrays, masks: PatchMasks) -> dict[str, RenderedMap]:
        # the map as each profile renders it; equal renderings are one object, so that results are computed once
        height, width = masks[0].binary.shape
        nan_plane = method.plane(raw, 0, (height, width), NAN)
        # a plane without NaN has no constant channel, so that all values of `constant` render the same
        is_finite = bool(np.isfinite(nan_plane).all())

        def plane(constant: float) -> np.ndarray:
            return nan_plane if is_finite or np.isnan(constant) else method.plane(raw, 0, (height, width), constant)

        relevance = method.relevance(raw, 0, (height, width), self.settings.sign) if self._all else None
        views: dict[str, RenderedMap] = {}
        for name in registry.names("profile"):
            rendered = registry.resolve("profile", name)().render(plane)
            same = next((v for n, v in views.items() if n != "thesis" and v.plane is rendered), None)
            views[name] = same or RenderedMap(method.method, rendered, relevance, masks, self.settings)
            if name == "thesis":  # a scores store has one array of counts
                views[name].counts = views["corrected"].counts
        return views

    def _fill_built_in(self, views: dict[str, RenderedMap], out: Arrays, grey: list[np.ndarray]) -> None:
        # grey: `levels` of each mask's probability; empty with --measures counts
        view, masks = views["corrected"], views["corrected"].masks
        out["counts"][:], out["union"][:] = view.counts[:-1], view.counts[-1]
        out["stretched"][:] = views["thesis"].once(stretched_counts)
        values, out["chance"][:] = CorrectedProfile().score(view)
        study = np.array([m.name in STUDY for m in CorrectedProfile.measures()])
        out["values"][:, 0], out["values"][:, 1] = values[:, study], views["thesis"].once(values_of)
        out["measures"][:], out["flags"][:] = values[:, ~study], view.flags
        if self._all:
            map_levels = levels(view.plane)
            out["curves"][:] = [threshold_histogram(map_levels, mask.binary) for mask in masks]
            out["mask_curves"][:] = [threshold_histogram(one, view.found) for one in grey]
