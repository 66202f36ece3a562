"""Maps put to the test on the model that they explain: faithfulness, and sanity under weights drawn anew.

Every number comes from passes in the micro-batches that the maps were made with, so it does not depend on the shard or
its neighbours; what is random is keyed by patch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from histoxai import provenance
from histoxai.errors import InputRefused, ParentChanged
from histoxai.explainers.base import Batch, Map
from histoxai.explainers.network import Network, of_targets, quiet_library, reinitialised
from histoxai.explainers.packing import Passes, packed
from histoxai.explainers.prior import Prior
from histoxai.explainers.stored import StoredMethod
from histoxai.metrics.faithfulness import CURVES, area, imputed, infill, removal_order, removed, similarity
from histoxai.models.batches import pick_device, to_tensor
from histoxai.models.checkpoint import load_model
from histoxai.models.runs import Run, open_run
from histoxai.progress import Progress
from histoxai.settings import FAITHFULNESS as ITEM
from histoxai.settings import PROBES, SANITY, Faithfulness, Work
from histoxai.store.patches import Patches
from histoxai.store.schema import ArraySpec
from histoxai.store.shards import Item, Store

ROAD_PERCENTILES = (20, 40, 60, 80)
Rows = Iterator[tuple[int, dict[str, np.ndarray]]]


class _Curves(Passes):
    """A patch with ever more pixels gone (deletion) and ever more of them there (insertion)."""

    def __init__(self, image: torch.Tensor, target: int, order: np.ndarray, settings: Faithfulness, seed: int) -> None:
        self._kinds = [c for c in CURVES if c in settings.probes]
        self._gone = removed(len(order), settings.steps)
        super().__init__(len(self._kinds) * len(self._gone), target)
        self._image, self._settings, self._seed = image, settings, seed
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        self._rank = torch.from_numpy(rank).view(image.shape[1:]).to(image.device)
        self._pixels = image.permute(1, 2, 0).cpu().numpy()
        kind = "mean" if settings.infill == "noisy_linear" else settings.infill
        self._blank = torch.from_numpy(infill(self._pixels, kind).transpose(2, 0, 1).copy()).to(image.device)
        self._y = torch.empty(self.rows, device=image.device)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        for row in range(start, stop):
            kind, step = divmod(row, len(self._gone))
            strongest = self._rank < int(self._gone[step])
            kept = strongest if self._kinds[kind] == "insertion" else ~strongest
            torch.where(kept, self._image, self._filling(kept, row), out=out[row - start])

    def _filling(self, kept: torch.Tensor, row: int) -> torch.Tensor:
        # neighbours tell nothing where there are none
        if self._settings.infill != "noisy_linear" or not kept.any():
            return self._blank
        made = imputed(self._pixels, kept.cpu().numpy(), (self._seed + row) % 2**32)
        return torch.from_numpy(made.transpose(2, 0, 1).copy()).to(self._image.device)

    def take(self, start: int, stop: int, found: torch.Tensor) -> None:
        self._y[start:stop] = found

    def result(self) -> Map:
        curves = self._y.cpu().numpy().reshape(len(self._kinds), len(self._gone))
        return Map(dict(zip(self._kinds, curves, strict=True)))


@dataclass
class Probing:
    """What is tested: maps of some methods, their patches and classifier, each checked to be the ones that belong.

    rows: of the maps store, one for each row of the scores store.
    """

    maps: Store
    methods: list[StoredMethod]
    rows: np.ndarray
    patches: Patches
    run: Run
    settings: Faithfulness
    device: torch.device

    @classmethod
    def of(
        cls,
        maps: Store,
        methods: list[StoredMethod],
        rows: np.ndarray,
        model: Path,
        patches: Path | None,
        settings: Faithfulness,
        progress: Progress,
        work: Work,
    ) -> Probing:
        """Open patches and classifier.

        Raises ParentChanged where one is gone or is not the one that was explained.
        """
        recorded = maps.header["parents"]
        place = patches or Path(maps.path.resolve().parent, recorded["patches"]["path"])
        if not place.exists():
            raise ParentChanged(f"{place}: not there, and {maps.path} was made from it; name its place with --patches")
        opened, run = Patches(place), open_run(model, "classifier")
        for name, path, found in (("patches", place, opened.digest), ("model", model, run.digest)):
            if found != recorded[name]["digest"]:
                raise ParentChanged(
                    f"{path}: is not the {name} that {maps.path} explains (digest {found}, then "
                    f"{recorded[name]['digest']}); name the right one with --{name}"
                )
        if settings.sanity and not _layers(load_model(run, torch.device("cpu"))):
            raise InputRefused(f"{model}: the network has no layer whose weights could be drawn anew")
        return cls(maps, methods, rows, opened, run, settings, pick_device(settings.device, work.rank))

    # ---- the work items

    def items(self, shard: int) -> list[Item]:
        """One for the probes, one for the cascade where it is asked for."""
        n, m, s = len(self.rows), len(self.methods), self.settings
        nothing = float("nan")
        what = {
            "probes": list(s.probes),
            "steps": s.steps,
            "infill": s.infill,
            "perturbations": s.perturbations,
            "noise": s.noise,
            "radius": s.radius,
            "device": self.device.type,
            "model": self.run.digest,
        }
        specs = (
            ArraySpec(f"{ITEM}/curves", (n, m, len(CURVES), s.steps + 1), np.float32, shard, nothing),
            ArraySpec(f"{ITEM}/values", (n, m, len(PROBES)), np.float32, shard, nothing, PROBES),
        )
        made = [Item(ITEM, specs, what)] if s.probes else []
        if s.sanity:
            layers = tuple(_layers(self._net.exact))
            shape = (n, m, len(layers), 2)
            what = {"patches": s.sanity, "layers": list(layers), "device": self.device.type, "model": self.run.digest}
            made.append(Item(SANITY, (ArraySpec(f"{SANITY}/similarity", shape, np.float32, shard, nothing),), what))
        return made

    @cached_property
    def _net(self) -> Network:
        size = int(self.maps.header["settings"]["micro_batch"])
        return Network(load_model(self.run, self.device), size)

    @cached_property
    def _untrained(self) -> Network:
        seed = provenance.keyed_seed(self.maps.header["seed"], "random weights")
        return Network(reinitialised(self._net.exact, seed), self._net.asked)

    def faithfulness(self, start: int, stop: int, have: np.ndarray) -> Rows:
        """Curves and values of rows [start, stop) that are not there yet, patch by patch."""
        for i in start + np.flatnonzero(~have):
            yield int(i), self._patch(int(i))

    def _patch(self, i: int) -> dict[str, np.ndarray]:
        s = self.settings
        at = self.rows[[i]]
        image = self._net.ready(to_tensor(self.patches.read(self.maps.take("row", at))))
        target, name = int(self.maps.take("targets", at)[0]), str(self.maps.take("patch_id", at)[0])
        seed = provenance.keyed_seed(0, ITEM, name)
        raw = [m.take(self.maps, at) for m in self.methods]
        size = self.patches.size
        relevance = [m.relevance(r, 0, size, "own") for m, r in zip(self.methods, raw, strict=True)]
        known = [j for j, plane in enumerate(relevance) if np.isfinite(plane).all()]
        curves = np.full((1, len(raw), len(CURVES), s.steps + 1), np.nan, np.float32)
        values = np.full((1, len(raw), len(PROBES)), np.nan, np.float32)
        if any(c in s.probes for c in CURVES):
            work = ((j, _Curves(image[0], target, removal_order(relevance[j], seed), s, seed)) for j in known)
            for j, found in packed(self._net, self._net.probability, work, image.shape[1:]):
                for name, curve in found.raw.items():
                    curves[0, j, CURVES.index(name)] = curve
                    values[0, j, PROBES.index(name)] = area(curve.astype(np.float64))
        for j in known:
            method = self.methods[j]
            if "road" in s.probes:
                values[0, j, PROBES.index("road")] = self._road(image, relevance[j], target, seed)
            if "infidelity" in s.probes:
                signed = method.explainer.signed({k: v[0] for k, v in raw[j].items()}, size)
                values[0, j, PROBES.index("infidelity")] = self._infidelity(image, signed, target, seed)
            if "sensitivity" in s.probes:
                values[0, j, PROBES.index("sensitivity")] = self._sensitivity(image, method, target, seed, name)
        return {f"{ITEM}/curves": curves, f"{ITEM}/values": values}

    # ---- probes that are libraries' own, one patch at a time

    def _road(self, image: torch.Tensor, relevance: np.ndarray, target: int, seed: int) -> float:
        # (confidence without the least relevant - without the most relevant) / 2, over four shares
        from pytorch_grad_cam.metrics.road import ROADCombined
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

        span = float(np.ptp(relevance))
        if not span:
            return float("nan")
        scaled = ((relevance - relevance.min()) / span).astype(np.float32)
        metric = ROADCombined(percentiles=list(ROAD_PERCENTILES))
        with torch.random.fork_rng(devices=[]), quiet_library():
            torch.manual_seed(seed)
            made = metric(image, scaled[None], [ClassifierOutputSoftmaxTarget(target)], self._net.exact)
        return float(made[0])

    def _infidelity(self, image: torch.Tensor, signed: np.ndarray, target: int, seed: int) -> float:
        # captum's, normalised: the scale of a map is no fault of it
        from captum.metrics import infidelity

        attribution = torch.from_numpy(_three_channels(signed))[None].to(image)
        if not attribution.abs().sum() > 0:
            return float("nan")
        goal = torch.tensor([target], device=image.device)

        def logit(x: torch.Tensor) -> torch.Tensor:
            return of_targets(self._net.module(x), goal.expand(len(x)))

        def perturb(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            noise = (torch.randn(x.shape) * self.settings.noise).to(x)
            return noise, x - noise

        with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_library():
            torch.manual_seed(seed)
            n = self.settings.perturbations
            made = infidelity(
                logit, perturb, image, attribution, n_perturb_samples=n, max_examples_per_batch=n, normalize=True
            )
        return float(made[0])

    def _sensitivity(self, image: torch.Tensor, method: StoredMethod, target: int, seed: int, patch: str) -> float:
        # captum's: the largest change of the map, as a share of it, when the patch changes by at most the radius
        from captum.metrics import sensitivity_max

        if getattr(method.explainer.options, "segments", "") == "nuclei":
            return float("nan")  # a perturbed patch has no masks
        net = self._untrained if _of_random_weights(method) else self._net
        own = provenance.keyed_seed(self.maps.header["seed"], method.name, patch)

        def maps(given: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor | tuple[torch.Tensor, ...]:
            # captum wants back what it gave, a tensor or a tuple of one
            x = given[0] if isinstance(given, tuple) else given
            batch = Batch(x, torch.full((len(x),), target), [own] * len(x))
            with torch.enable_grad():  # captum has it off
                found = dict(method.explainer.explain(net, batch))
            planes = [method.explainer.signed(found[k].raw, self.patches.size) for k in range(len(x))]
            made = torch.from_numpy(np.stack(planes)).contiguous()
            return (made,) if isinstance(given, tuple) else made

        with torch.random.fork_rng(devices=[]), quiet_library():
            torch.manual_seed(seed)
            n = self.settings.perturbations
            made = sensitivity_max(maps, image.cpu(), perturb_radius=self.settings.radius, n_perturb_samples=n)
        return float(made[0])

    # ---- sanity

    def sanity(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Similarity of maps to those of networks whose layers, from the last to the first, are drawn anew.

        Adebayo et al. 2018, arXiv 1810.03292: a method whose maps do not change does not look at the weights.
        """
        n, s = len(self.rows), self.settings
        chosen = np.unique(np.linspace(0, n - 1, min(s.sanity, n)).round().astype(int))
        mine = chosen[(chosen >= start) & (chosen < stop)]
        layers = _layers(self._net.exact)
        found = np.full((stop - start, len(self.methods), len(layers), 2), np.nan, np.float32)
        if len(mine):
            at = self.rows[mine]
            images = to_tensor(self.patches.read(self.maps.take("row", at)))
            targets = torch.from_numpy(self.maps.take("targets", at).astype(np.int64))
            ids = self.maps.take("patch_id", at).tolist()
            for k, net in enumerate(self._cascade(layers)):
                for j, method in enumerate(self.methods):
                    found[mine - start, j, k] = self._compare(method, net, images, targets, ids, at)
        return {f"{SANITY}/similarity": found}

    def _compare(
        self,
        method: StoredMethod,
        net: Network,
        images: torch.Tensor,
        targets: torch.Tensor,
        ids: list[str],
        at: np.ndarray,
    ) -> np.ndarray:
        if getattr(method.explainer.options, "segments", "") == "nuclei" or _of_random_weights(method):
            return np.full((len(at), 2), np.nan)  # no masks of such networks, or nothing left to randomise
        seeds = [provenance.keyed_seed(self.maps.header["seed"], method.name, i) for i in ids]
        again = dict(method.explainer.explain(net, Batch(images, targets, seeds)))
        raw, size = method.take(self.maps, at), self.patches.size
        return np.array(
            [
                similarity(method.relevance(raw, i, size, "own"), method.explainer.relevance(again[i].raw, size, "own"))
                for i in range(len(at))
            ]
        )

    def _cascade(self, layers: list[str]) -> Iterator[Network]:
        # one network for each number of layers drawn anew, from the output on
        module = copy.deepcopy(self._net.exact)
        fresh = reinitialised(self._net.exact, provenance.keyed_seed(self.maps.header["seed"], SANITY))
        for name in layers:
            getattr(module, name).load_state_dict(getattr(fresh, name).state_dict())
            yield Network(module, self._net.asked)


def _layers(module: nn.Module) -> list[str]:
    """Children with weights that can be drawn anew, from the output to the input."""
    names = [
        name
        for name, child in module.named_children()
        if any(
            callable(getattr(part, "reset_parameters", None)) and list(part.parameters()) for part in child.modules()
        )
    ]
    return names[::-1]


def _of_random_weights(method: StoredMethod) -> bool:
    return method.null and not isinstance(method.explainer, Prior)


def _three_channels(signed: np.ndarray) -> np.ndarray:
    # evidence of a pixel, spread over its channels
    return signed if len(signed) == 3 else np.repeat(signed / np.float32(3), 3, axis=0)
