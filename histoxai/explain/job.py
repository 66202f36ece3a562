"""One run of `explain`: its checked inputs, and the maps of a range of patches as they are finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import provenance
from histoxai.core.errors import UsageError
from histoxai.core.progress import Progress
from histoxai.core.registry import OWN, origin
from histoxai.explain import inputs
from histoxai.explain.arguments import make_explainers
from histoxai.explain.bases.method import ENGINE, Batch, Map, Method
from histoxai.explain.bases.single_pass import Part, SinglePass, run_single_pass
from histoxai.explain.inputs import ExplainInputs, Nuclei
from histoxai.explain.library_engine import library_version, require_libraries
from histoxai.explain.maps_store import checks_path, raw_path
from histoxai.explain.network import Network, reinitialised
from histoxai.networks.inference import prediction_arrays, to_tensor
from histoxai.networks.run_folder import Run
from histoxai.networks.weights import load_model
from histoxai.settings import Explain, Work
from histoxai.settings.base import recorded_options
from histoxai.statistics.ranks import spearman
from histoxai.store.header import header_identity
from histoxai.store.patches import Patches
from histoxai.store.shards import Store

PREDICTIONS = "predictions"
RANK_CHECK = "rank_to_fp32"
ROWS_OF_ONE_PATCH = 4  # rows of a pass that explains a single patch: most of a larger one would be padding

# (first row, arrays by path) of finished rows
Rows = Iterator[tuple[int, dict[str, np.ndarray]]]


@dataclass
class Job:
    """Inputs of one run of `explain`.

    rows: rows of the patch store that are explained; "positions" count among them. target: their given classes (n,), or
    None for the predicted ones. methods: registered method by name. explainers: the method with its options by name.
    facts: recorded with every finished shard. missing(name, start): whether a method's shard that starts at this
    position is still to be made, so that it may share a pass.
    """

    settings: Explain
    patches: Patches
    run: Run
    rows: np.ndarray
    target: np.ndarray | None
    net: Network
    methods: dict[str, str]
    explainers: dict[str, Method]
    facts: dict[str, Any]
    nuclei: Nuclei | None = None
    missing: Callable[[str, int], bool] = lambda name, start: False
    _shared: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        paths: ExplainInputs,
        output: Path,
        settings: Explain,
        device: torch.device,
        progress: Progress,
        work: Work,
    ) -> Job:
        """Open and check all inputs, and load the network.

        Raises UsageError for an unknown method, option or target, InputRefused if classifier, patches and masks do not
        belong together or the network does not suit a method.
        """
        parsed = make_explainers(settings.methods, settings.options)
        for name in settings.random_weights:
            if name not in parsed:
                raise UsageError(f"--random-weights {name}: is not among the methods {', '.join(parsed)}")
        explainers = {name: explainer for name, (_, explainer) in parsed.items()}
        if settings.engine == "library":
            require_libraries(explainers)
        patches, run = inputs.open_patches_and_run(paths, progress)
        rows = patches.rows(settings.split, settings.per_class)
        target = inputs.targets_of(settings.target, patches, rows)
        nuclei = inputs.open_nuclei(paths.masks, explainers, patches, rows)
        stored = {} if work.force else inputs.stored_settings(output)
        compiled = settings.compile and inputs.use_compiler(device, stored, output, progress)
        module = load_model(run, device)
        size = inputs.micro_batch_of(settings, module, patches.size, stored, progress)
        settings = replace(settings, compile=compiled, micro_batch=size)
        facts = {"threads": work.threads, "micro_batch": size}
        net = Network(module, size, settings.precision, compiled, partial(_record_halving, facts, progress))
        methods = {name: method for name, (method, _) in parsed.items()}
        return cls(settings, patches, run, rows, target, net, methods, explainers, facts, nuclei)

    def method_identity(self, name: str) -> dict[str, Any]:
        """Facts of a method in the store's header; runs with other facts are refused.

        A plugin's method has its package and version in addition, and maps of a library have the library's.
        """
        method = self.methods[name]
        facts = {
            "method": method,
            "options": recorded_options(self.explainers[name].options),
            "seed": self.settings.seed,
            "engine": ENGINE,
        }
        if (package := origin("method", method)) != OWN:
            facts["package"] = package
        if self.settings.engine == "library":
            facts["library"] = library_version(self.explainers[name])
        if name in self.settings.random_weights:
            facts["random_weights"] = True
        if self.nuclei is not None and inputs.wants_nuclei(self.explainers[name]):
            # the identity of a store does not change while it is filled
            facts["masks"] = provenance.fingerprint(header_identity(self.nuclei.masks.header))
        return facts

    def index(self) -> dict[str, np.ndarray]:
        """Row, id, label and group of each explained patch."""
        return {
            "row": self.rows.astype(np.int32),
            "patch_id": self.patches.patch_id[self.rows],
            "label": self.patches.label[self.rows].astype(np.int16),
            "group": self.patches.group[self.rows],
        }

    @cached_property
    def untrained(self) -> Network:
        """The same network with random weights."""
        module = reinitialised(self.net.exact, provenance.keyed_seed(self.settings.seed, "random weights"))
        return Network(
            module, self.net.full_micro_batch, self.settings.precision, self.settings.compile, self.net.on_halving
        )

    def net_of(self, name: str) -> Network:
        """The network that the method of this name explains."""
        return self.untrained if name in self.settings.random_weights else self.net

    def sharing(self, net: Network) -> dict[str, SinglePass]:
        """The methods that can share one pass through this network; none if libraries compute them."""
        if self.settings.engine == "library":
            return {}
        return {
            name: explainer
            for name, explainer in self.explainers.items()
            if isinstance(explainer, SinglePass) and (name in self.settings.random_weights) == (net is not self.net)
        }

    def images(self, positions: np.ndarray) -> torch.Tensor:
        """Patches (n, 3, H, W) float32 in 0..1."""
        return to_tensor(self.patches.read(self.rows[positions]))

    def batch(self, name: str, positions: np.ndarray, targets: np.ndarray) -> Batch:
        """A batch of patches for the method of this name, with seeds that depend on seed, name and patch alone."""
        ids = self.patches.patch_id[self.rows[positions]].tolist()
        seeds = [provenance.keyed_seed(self.settings.seed, name, i) for i in ids]
        wanted = self.nuclei is not None and inputs.wants_nuclei(self.explainers[name])
        nuclei = self.nuclei.take(positions) if wanted and self.nuclei is not None else None
        return Batch(self.images(positions), torch.from_numpy(targets.astype(np.int64)), seeds, nuclei, ids)

    def targets(self, positions: np.ndarray) -> np.ndarray:
        """The class (n,) that is explained of each patch; runs the network if it is the predicted one."""
        if self.target is not None:
            return self.target[positions]
        return np.concatenate([part.targets for part in run_single_pass(self.net, {}, self.images(positions), None)])

    # ---- finished rows of work items

    def predict(self, start: int, stop: int, have: np.ndarray) -> Rows:
        """Yield predictions of positions [start, stop); maps of methods that share their pass are kept for later."""
        del have
        for part in self._pass(self.net, start, stop, None if self.target is None else self.target[start:stop]):
            arrays = {f"{PREDICTIONS}/{k}": v for k, v in prediction_arrays(part.logits).items()}
            yield start + part.start, arrays | {"targets": part.targets.astype(np.int16)}

    def maps(self, name: str, store: Store, start: int, stop: int, have: np.ndarray) -> Rows:
        """Yield maps and checks of positions [start, stop) that the store does not have yet."""
        if name not in self.sharing(self.net_of(name)):
            positions = start + np.flatnonzero(~have)
            yield from self.explain(name, positions, store.take("targets", positions), start)
            return
        targets = store.read("targets", start, stop)
        if (name, start) not in self._shared:
            for _ in self._pass(self.net_of(name), start, stop, targets, name):
                pass
        for i, raw in enumerate(self._shared.pop((name, start))):
            result = Map({"": raw})
            yield start + i, self._arrays(name, result, self._rank(name, start + i, int(targets[i]), result, start))

    def explain(self, name: str, positions: np.ndarray, targets: np.ndarray, start: int = -1) -> Rows:
        """Yield maps and checks of the patches at these positions; start: the first position of their work item."""
        batch, explainer = self.batch(name, positions, targets), self.explainers[name]
        compute = explainer.explain_with_library if self.settings.engine == "library" else explainer.explain
        for i, result in compute(self.net_of(name), batch):
            position = int(positions[i])
            yield position, self._arrays(name, result, self._rank(name, position, int(targets[i]), result, start))

    def _pass(
        self, net: Network, start: int, stop: int, targets: np.ndarray | None, needed: str | None = None
    ) -> Iterator[Part]:
        # one pass for the method `needed`, and for all others of this network whose maps of these rows are missing
        methods = {n: e for n, e in self.sharing(net).items() if n == needed or self.missing(n, start)}
        self._shared = {key: raw for key, raw in self._shared.items() if key[1] == start}
        chunks: dict[str, list[np.ndarray]] = {name: [] for name in methods}
        classes = None if targets is None else torch.from_numpy(targets.astype(np.int64))
        for part in run_single_pass(net, methods, self.images(np.arange(start, stop)), classes):
            for name, raw in part.raw.items():
                chunks[name].append(raw)
            yield part
        self._shared |= {(name, start): np.concatenate(raw) for name, raw in chunks.items()}

    def _arrays(self, name: str, result: Map, rank: float) -> dict[str, np.ndarray]:
        arrays = {raw_path(name, part): values[None] for part, values in result.raw.items()}
        checks = self.explainers[name].all_checks(result) | {RANK_CHECK: rank}
        arrays[checks_path(name)] = np.array([[checks.get(c, np.nan) for c in self.checks(name)]], np.float32)
        return arrays

    def checks(self, name: str) -> tuple[str, ...]:
        """Names of the checks that are stored with a method's maps."""
        explainer = self.explainers[name]
        rank = () if self.settings.precision == "fp32" else (RANK_CHECK,)
        return (*explainer.COMMON_CHECKS, *explainer.checks, *rank)

    def _rank(self, name: str, position: int, target: int, result: Map, start: int) -> float:
        # in other precisions, the first patch of each work item is explained in float32 too
        if self.settings.precision == "fp32" or position != start:
            return float("nan")
        return self.rank_to_fp32(name, position, target, result.raw)

    def rank_to_fp32(self, name: str, position: int, target: int, raw: dict[str, np.ndarray]) -> float:
        """Spearman's correlation of one patch's map with its map in float32; NaN if one of them is constant."""
        net, explainer = self.net_of(name), self.explainers[name]
        with net.in_fp32(min(ROWS_OF_ONE_PATCH, net.full_micro_batch)) as exact:
            batch = self.batch(name, np.array([position]), np.array([target]))
            result = next(explainer.explain(exact, batch))[1]
        return spearman(explainer.evidence(raw).ravel(), explainer.evidence(result.raw).ravel())


def _record_halving(facts: dict[str, Any], progress: Progress, micro_batch: int) -> None:
    facts["micro_batch"] = min(micro_batch, facts["micro_batch"])  # two networks may share a job
    progress.news(f"out of memory: going on with micro-batches of {micro_batch}; maps agree within the contract")
