"""Test maps on the model that they explain: faithfulness measures, and the sanity check under randomised weights.

Passes run in float32 and in the micro-batches that the maps were made with, and random numbers are keyed by patch. A
value therefore does not depend on the shard or its neighbours. Each measure is a work item of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from histoxai.core import provenance
from histoxai.core.errors import InputRefused
from histoxai.core.progress import Progress
from histoxai.explain.bases.method import Batch
from histoxai.explain.bases.null_model import NullModel
from histoxai.explain.bases.packing import run_packed
from histoxai.explain.inputs import wants_nuclei
from histoxai.explain.maps_store import StoredMethod
from histoxai.explain.network import Network, quiet_library, reinitialised
from histoxai.networks.inference import to_tensor
from histoxai.networks.run_folder import Run, run_parent
from histoxai.networks.weights import load_model
from histoxai.score.coverage import Coverage
from histoxai.score.inputs import FaithfulnessInputs
from histoxai.score.measures.base import NAN
from histoxai.score.measures.faithfulness import (
    CURVES,
    area,
    infidelity,
    infill,
    rank_plane,
    removal_order,
    removed,
    similarity,
    squares,
)
from histoxai.score.replaced_pixels import ReplacedPixels
from histoxai.settings import SANITY, Faithfulness
from histoxai.store.parents import open_parent
from histoxai.store.patches import PATCHES_PARENT, Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store

ROAD_PERCENTILES = (20, 40, 60, 80)
Rows = Iterator[tuple[int, dict[str, np.ndarray]]]
# (number of the method, values for each array of the work item)
Values = Iterator[tuple[int, tuple[Any, ...]]]


@dataclass(frozen=True)
class _Patch:
    """One patch as tests get it: image (1, 3, H, W), target, id, seed of its own, raw arrays of each method."""

    image: torch.Tensor
    target: int
    name: str
    seed: int
    raw: list[dict[str, np.ndarray]]


@dataclass
class FaithfulnessRuns:
    """Tests of maps on the classifier that they explain.

    rows: of the maps store, one for each row of the scores store. facts: recorded with every finished shard.
    """

    maps: Store
    methods: list[StoredMethod]
    rows: np.ndarray
    patches: Patches
    run: Run
    settings: Faithfulness
    device: torch.device
    progress: Progress
    facts: dict[str, Any]

    @classmethod
    def of(
        cls,
        inputs: FaithfulnessInputs,
        maps: Store,
        coverage: Coverage,
        device: torch.device,
        progress: Progress,
        facts: dict[str, Any],
    ) -> FaithfulnessRuns:
        """Open patches and classifier.

        Raises ParentChanged where one is gone or is not the one that was explained.
        """
        patches = open_parent(PATCHES_PARENT, maps.path, maps.header, inputs.patches)
        run = open_parent(run_parent("model", "classifier"), maps.path, maps.header, inputs.model)
        methods, rows = coverage.methods, coverage.rows
        return cls(maps, methods, rows, patches, run, inputs.settings, device, progress, facts)

    # ---- the work items

    def items(self, shard: int) -> list[Item]:
        """Return one work item for each faithfulness measure, and one for the sanity check if it is asked for."""
        s = self.settings
        common = {"device": self.device.type, "model": self.run.digest}
        own: dict[str, dict[str, Any]] = {
            "deletion": {"steps": s.steps, "infill": s.infill},
            "insertion": {"steps": s.steps, "infill": s.infill},
            "road": {"percentiles": list(ROAD_PERCENTILES)},
            "infidelity": {"squares": s.squares, "infill": s.infill},
            "sensitivity": {"perturbations": s.perturbations, "radius": s.radius},
        }
        if s.sanity:
            own[SANITY] = {"patches": s.sanity, "layers": self._layers}
        return [Item(name, self._specs(name, shard), own[name] | common) for name in self.work()]

    def _specs(self, name: str, shard: int) -> tuple[ArraySpec, ...]:
        n = len(self.rows)
        return tuple(ArraySpec(k, (n, *v.shape[1:]), np.float32, shard, NAN) for k, v in self._blank(name).items())

    def _blank(self, name: str) -> dict[str, np.ndarray]:
        # one patch's row of each array of a work item
        shapes: dict[str, tuple[int, ...]] = {f"faithfulness/{name}": ()}
        if name in CURVES:
            shapes[f"curves_of/{name}"] = (self.settings.steps + 1,)
        if name == SANITY:
            shapes = {f"{SANITY}/similarity": (len(self._layers) + 1, 2)}
        return {path: np.full((1, len(self.methods), *shape), NAN, np.float32) for path, shape in shapes.items()}

    def work(self) -> dict[str, Callable[[int, int, np.ndarray], Rows]]:
        """Return what computes each work item: (start, stop, have) -> rows as they are finished, patch by patch."""
        tests = {probe: partial(self._measure, probe) for probe in self.settings.probes}
        return tests | ({SANITY: self._sanity} if self.settings.sanity else {})

    @cached_property
    def _layers(self) -> list[str]:
        module = load_model(self.run, torch.device("cpu"))
        if not (found := _layers(module)):
            raise InputRefused(f"{self.run.path}: the network has no layer whose weights could be drawn anew")
        return found

    @cached_property
    def _net(self) -> Network:
        size = int(self.maps.header["settings"]["micro_batch"])
        self.facts["micro_batch"] = size
        return Network(load_model(self.run, self.device), size, on_halving=self._halved)

    def _halved(self, micro_batch: int) -> None:
        self.facts["micro_batch"] = micro_batch
        self.progress.news(f"out of memory: going on with micro-batches of {micro_batch}")

    @cached_property
    def _untrained(self) -> Network:
        seed = provenance.keyed_seed(self.maps.header["seed"], "random weights")
        return Network(reinitialised(self._net.exact, seed), self._net.full_micro_batch, on_halving=self._halved)

    def _patch(self, i: int) -> _Patch:
        at = self.rows[[i]]
        image = self._net.ready(to_tensor(self.patches.read(self.maps.take("row", at))))
        name = str(self.maps.take("patch_id", at)[0])
        raw = [{k: v[0] for k, v in method.take(self.maps, at).items()} for method in self.methods]
        seed = provenance.keyed_seed(0, "faithfulness", name)
        return _Patch(image, int(self.maps.take("targets", at)[0]), name, seed, raw)

    def _measure(self, probe: str, start: int, stop: int, have: np.ndarray) -> Rows:
        for i in (start + np.flatnonzero(~have)).tolist():
            patch = self._patch(i)
            row = self._blank(probe)
            planes = [
                m.explainer.relevance(r, self.patches.size, "own") for m, r in zip(self.methods, patch.raw, strict=True)
            ]
            known = [j for j, plane in enumerate(planes) if np.isfinite(plane).all()]
            for j, values in self._values(probe, patch, planes, known):
                for array, value in zip(row.values(), values, strict=True):
                    array[0, j] = value
            yield i, row

    def _values(self, probe: str, patch: _Patch, planes: list[np.ndarray], known: list[int]) -> Values:
        if probe in CURVES:
            yield from self._curves(probe, patch, planes, known)
        elif probe == "infidelity":
            yield from self._infidelity(patch, known)
        elif probe == "road":
            yield from ((j, (self._road(patch, planes[j]),)) for j in known)
        else:
            yield from ((j, (self._sensitivity(patch, self.methods[j]),)) for j in known)

    # ---- the measures

    def _curves(self, probe: str, patch: _Patch, planes: list[np.ndarray], known: list[int]) -> Values:
        """Remove (deletion) or insert (insertion) ever more of the strongest pixels."""
        steps = removed(planes[0].size, self.settings.steps)

        def passes(j: int) -> ReplacedPixels:
            rank = np.empty(planes[j].size, np.int64)
            rank[removal_order(planes[j], patch.seed)] = np.arange(planes[j].size)
            strongest = rank.reshape(1, *planes[j].shape) < steps[:, None, None]
            kept = strongest if probe == "insertion" else ~strongest
            return ReplacedPixels(patch.image[0], patch.target, kept, self.settings.infill, patch.seed)

        work = ((j, passes(j)) for j in known)
        for j, found in run_packed(self._net, self._net.probability, work, patch.image.shape[1:]):
            curve = found.raw[""]
            yield j, (area(curve.astype(np.float64)), curve)

    def _infidelity(self, patch: _Patch, known: list[int]) -> Values:
        """Compare the evidence in random squares with the fall of the logit when they are replaced."""
        gone = squares(patch.seed, self.settings.squares, self.patches.size)
        kept = np.concatenate([np.ones((1, *self.patches.size), bool), ~gone])
        kind = "mean" if self.settings.infill == "noisy_linear" else self.settings.infill
        work = [(0, ReplacedPixels(patch.image[0], patch.target, kept, kind, patch.seed))]
        ((_, found),) = run_packed(self._net, self._net.logit, work, patch.image.shape[1:])
        logits = found.raw[""].astype(np.float64)
        pixels = patch.image[0].permute(1, 2, 0).cpu().numpy()
        change = (pixels - infill(pixels, kind)).transpose(2, 0, 1).astype(np.float64)
        for j in known:
            explainer = self.methods[j].explainer
            evidence = explainer.signed(patch.raw[j], self.patches.size).astype(np.float64)
            if explainer.is_gradient:  # a slope tells of a change what it is times the change
                evidence = evidence * change
            yield j, (infidelity(evidence.sum(axis=0), gone, logits[0] - logits[1:]),)

    def _road(self, patch: _Patch, plane: np.ndarray) -> float:
        # pytorch-grad-cam's: (confidence without the least relevant - without the most relevant) / 2, over four shares.
        # It cuts at percentiles of the map, which remove other shares where pixels tie: it gets ranks without ties.
        from pytorch_grad_cam.metrics.road import ROADCombined
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

        ranks = rank_plane(plane, patch.seed)
        metric = ROADCombined(percentiles=list(ROAD_PERCENTILES))
        with torch.random.fork_rng(devices=[]), quiet_library():
            torch.manual_seed(patch.seed)
            target = [ClassifierOutputSoftmaxTarget(patch.target)]
            made = self._net.in_parts(lambda _: metric(patch.image, ranks[None], target, self._net.exact))
        return float(made[0])

    def _sensitivity(self, patch: _Patch, method: StoredMethod) -> float:
        # captum's: the largest change of the map, as a share of it, when the patch changes by at most the radius
        from captum.metrics import sensitivity_max

        if wants_nuclei(method.explainer):
            return NAN  # a perturbed patch has no masks
        net = self._untrained if _of_random_weights(method) else self._net
        own = provenance.keyed_seed(self.maps.header["seed"], method.name, patch.name)

        def maps(given: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
            # captum wants back what it gave, a tensor or a tuple of one
            x = given[0] if isinstance(given, tuple) else given
            batch = Batch(x, torch.full((len(x),), patch.target), [own] * len(x))
            with torch.enable_grad():  # captum has it off
                found = dict(method.explainer.explain(net, batch))
            planes = [method.explainer.signed(found[k].raw, self.patches.size) for k in range(len(x))]
            made = torch.from_numpy(np.stack(planes)).contiguous()
            if len(x) == 1 and not made.abs().sum() > 0:
                raise InputRefused("a map of zeros has no share")
            return (made,) if isinstance(given, tuple) else made

        with torch.random.fork_rng(devices=[]), quiet_library():
            torch.manual_seed(patch.seed)
            n, radius = self.settings.perturbations, self.settings.radius
            try:
                made = sensitivity_max(maps, patch.image.cpu(), perturb_radius=radius, n_perturb_samples=n)
            except InputRefused:  # nothing there, or a perturbed patch that this method cannot take
                return NAN
        return float(made[0])

    # ---- sanity

    def _sanity(self, start: int, stop: int, have: np.ndarray) -> Rows:
        """Compare maps with those of networks whose layers are randomised, from the last to the first.

        Adebayo et al. 2018, arXiv 1810.03292: a method whose maps do not change does not look at the weights. The
        first entry compares with the trained network under another seed of the method.
        """
        n, layers = len(self.rows), self._layers
        chosen = set(np.linspace(0, n - 1, min(self.settings.sanity, n)).round().astype(int).tolist())
        module = copy.deepcopy(self._net.exact)
        fresh = reinitialised(self._net.exact, provenance.keyed_seed(self.maps.header["seed"], SANITY))
        net = Network(module, self._net.full_micro_batch, on_halving=self._halved)
        for i in (start + np.flatnonzero(~have)).tolist():
            row = self._blank(SANITY)
            if i in chosen:
                patch = self._patch(i)
                first = [self._again(m, net, patch, "") for m in self.methods]
                for k, layer in enumerate(["", *layers]):
                    if layer:
                        module.get_submodule(layer).load_state_dict(fresh.get_submodule(layer).state_dict())
                    for j, method in enumerate(self.methods):
                        row[f"{SANITY}/similarity"][0, j, k] = similarity(
                            first[j], self._again(method, net, patch, "again")
                        )
                module.load_state_dict(self._net.exact.state_dict())
            yield i, row

    def _again(self, method: StoredMethod, net: Network, patch: _Patch, seed: str) -> np.ndarray:
        # the relevance under this network; NaN where there are no masks, or where weights are random already
        size = self.patches.size
        if wants_nuclei(method.explainer) or _of_random_weights(method):
            return np.full(size, np.nan, np.float32)
        key = provenance.keyed_seed(self.maps.header["seed"], method.name + seed, patch.name)
        batch = Batch(patch.image.cpu(), torch.tensor([patch.target]), [key])
        return method.explainer.relevance(next(method.explainer.explain(net, batch))[1].raw, size, "own")


def _layers(module: nn.Module) -> list[str]:
    """List children whose weights can be randomised, from the output to the input; those of an only child, if one."""
    names = [
        name
        for name, child in module.named_children()
        if any(callable(getattr(p, "reset_parameters", None)) and list(p.parameters()) for p in child.modules())
    ]
    if len(names) == 1 and (inner := _layers(module.get_submodule(names[0]))):
        return [f"{names[0]}.{name}" for name in inner]
    return names[::-1]


def _of_random_weights(method: StoredMethod) -> bool:
    return method.null and not isinstance(method.explainer, NullModel)
