"""What `explain` works on, checked against each other, and the maps of a run of patches as they are finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoxai.core import provenance
from histoxai.core.errors import Incomplete, InputRefused, UsageError
from histoxai.core.progress import Progress
from histoxai.explain.arguments import make_explainers
from histoxai.explain.maps_store import checks_path, raw_path
from histoxai.explain.methods.base import Batch, Explainer, Map
from histoxai.explain.methods.single_pass import OnePass, Part, one_pass
from histoxai.explain.network import Network, can_compile, fits_on_gpu, largest_that_fits, reinitialised, worthwhile
from histoxai.networks.inference import pick_device, prediction_arrays, to_tensor
from histoxai.networks.run_folder import Run, open_run
from histoxai.networks.weights import load_model
from histoxai.settings import Explain, Work
from histoxai.store.patches import Patches
from histoxai.store.shards import Store, open_store
from histoxai.store.state import rows_done
from histoxai.store.storage.files import read_json

PREDICTIONS = "predictions"
RANK = "rank_to_fp32"
FEW = 4  # rows of a pass where a single patch is explained: most of a larger one would be padding

Rows = Iterator[tuple[int, dict[str, np.ndarray]]]


@dataclass
class Job:
    """Inputs of a command: patches, classifier, which rows, their given targets (None: predicted), and the methods.

    methods: registered method by name. nuclei: a masks store, and the row in it of each of `rows`. missing(name,
    start): whether a method's shard that begins there is still to be made, so that it may share a pass.
    """

    settings: Explain
    patches: Patches
    run: Run
    rows: np.ndarray
    target: np.ndarray | None
    net: Network
    methods: dict[str, str]
    explainers: dict[str, Explainer]
    facts: dict[str, Any]
    nuclei: tuple[Store, np.ndarray] | None = None
    missing: Callable[[str, int], bool] = lambda name, start: False
    _shared: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        source: Path,
        model: Path,
        masks: Path | None,
        output: Path,
        settings: Explain,
        progress: Progress,
        work: Work,
    ) -> Job:
        """Open and check everything, load the network.

        Raises UsageError for an unknown method, option or target, InputRefused where classifier, patches and masks
        do not belong together or the network does not suit a method.
        """
        made = make_explainers(settings.methods, settings.options)
        for name in settings.random_weights:
            if name not in made:
                raise UsageError(f"--random-weights {name}: is not among the methods {', '.join(made)}")
        patches = Patches(source)
        run = open_run(model, "classifier")
        _check(patches, run, progress)
        rows = patches.rows(settings.split, settings.per_class)
        target = _target(settings.target, patches, rows)
        explainers = {name: explainer for name, (_, explainer) in made.items()}
        nuclei = _nuclei(masks, explainers, patches, rows)
        device = pick_device(settings.device, work.rank, settings.precision)
        made_with = {} if work.force else _settings_of(output)
        settings = replace(settings, compile=settings.compile and _compiles(device, made_with, output, progress))
        facts: dict[str, Any] = {"threads": work.threads}

        def tell(micro_batch: int) -> None:
            facts["micro_batch"] = min(micro_batch, facts["micro_batch"])  # two networks may share a job
            progress.news(
                f"out of memory: going on with micro-batches of {micro_batch}; maps agree within the contract"
            )

        module = load_model(run, device)
        size = _micro_batch(settings, module, device, patches.size, made_with, progress)
        settings = replace(settings, micro_batch=size)
        facts["micro_batch"] = size
        net = Network(module, size, settings.precision, settings.compile, tell)
        methods = {name: method for name, (method, _) in made.items()}
        return cls(settings, patches, run, rows, target, net, methods, explainers, facts, nuclei)

    def index(self) -> dict[str, np.ndarray]:
        """Ids and labels of the rows."""
        return {
            "row": self.rows.astype(np.int32),
            "patch_id": self.patches.patch_id[self.rows],
            "label": self.patches.label[self.rows].astype(np.int16),
            "group": self.patches.group[self.rows],
        }

    @cached_property
    def untrained(self) -> Network:
        """The same network with weights drawn anew."""
        module = reinitialised(self.net.exact, provenance.keyed_seed(self.settings.seed, "random weights"))
        return Network(module, self.net.asked, self.settings.precision, self.settings.compile, self.net.tell)

    def net_of(self, name: str) -> Network:
        """The network that a method of this name explains."""
        return self.untrained if name in self.settings.random_weights else self.net

    def sharing(self, net: Network) -> dict[str, OnePass]:
        """The methods that one pass through this network can serve together."""
        return {
            name: explainer
            for name, explainer in self.explainers.items()
            if isinstance(explainer, OnePass) and (name in self.settings.random_weights) == (net is not self.net)
        }

    def images(self, at: np.ndarray) -> torch.Tensor:
        """Patches (n, 3, H, W) float32 at places among the rows."""
        return to_tensor(self.patches.read(self.rows[at]))

    def batch(self, name: str, at: np.ndarray, targets: np.ndarray) -> Batch:
        """The patches at places among the rows as a method of this name gets them."""
        ids = self.patches.patch_id[self.rows[at]].tolist()
        seeds = [provenance.keyed_seed(self.settings.seed, name, i) for i in ids]
        nuclei = None
        if self.nuclei is not None and getattr(self.explainers[name].options, "segments", "") == "nuclei":
            nuclei = self.nuclei[0].take("probability", self.nuclei[1][at])
        return Batch(self.images(at), torch.from_numpy(targets.astype(np.int64)), seeds, nuclei, ids)

    def targets(self, at: np.ndarray) -> np.ndarray:
        """The class that is explained of each patch, computed where it is the predicted one."""
        if self.target is not None:
            return self.target[at]
        return np.concatenate([part.targets for part in one_pass(self.net, {}, self.images(at), None)])

    # ---- runs of finished rows, as work items take them

    def predict(self, start: int, stop: int, have: np.ndarray) -> Rows:
        """Predictions of rows [start, stop), with the maps of all methods that share their pass kept for later."""
        del have
        for part in self._pass(self.net, start, stop, None if self.target is None else self.target[start:stop]):
            found = prediction_arrays(part.logits)
            made = {f"{PREDICTIONS}/{k}": v for k, v in found.items()}
            yield start + part.start, made | {"targets": part.targets.astype(np.int16)}

    def maps(self, name: str, store: Store, start: int, stop: int, have: np.ndarray) -> Rows:
        """Maps and checks of rows [start, stop) that are not there yet."""
        explainer = self.explainers[name]
        if not isinstance(explainer, OnePass):
            at = start + np.flatnonzero(~have)
            yield from self.explain(name, at, store.take("targets", at), start)
            return
        targets = store.read("targets", start, stop)
        if (name, start) not in self._shared:
            for _ in self._pass(self.net_of(name), start, stop, targets, name):
                pass
        at = np.arange(start, stop)
        raw = self._shared.pop((name, start))
        for i, one in enumerate(raw):
            yield start + i, self._arrays(name, Map({"": one}), self._rank(name, at[i : i + 1], targets[i], one, start))

    def explain(self, name: str, at: np.ndarray, targets: np.ndarray, start: int = -1) -> Rows:
        """Maps and checks of the patches at places among the rows; start: where their work item begins."""
        batch = self.batch(name, at, targets)
        for i, found in self.explainers[name].explain(self.net_of(name), batch):
            rank = self._rank(name, at[i : i + 1], targets[i], found.raw, start)
            yield int(at[i]), self._arrays(name, found, rank)

    def _pass(
        self, net: Network, start: int, stop: int, targets: np.ndarray | None, asked: str | None = None
    ) -> Iterator[Part]:
        # one pass for the method that asks, and all others of this network whose maps of these rows are missing
        methods = {n: e for n, e in self.sharing(net).items() if n == asked or self.missing(n, start)}
        self._shared = {key: raw for key, raw in self._shared.items() if key[1] == start}
        found: dict[str, list[np.ndarray]] = {name: [] for name in methods}
        given = None if targets is None else torch.from_numpy(targets.astype(np.int64))
        for part in one_pass(net, methods, self.images(np.arange(start, stop)), given):
            for name, rows in part.raw.items():
                found[name].append(rows)
            yield part
        self._shared |= {(name, start): np.concatenate(rows) for name, rows in found.items()}

    def _arrays(self, name: str, found: Map, rank: float) -> dict[str, np.ndarray]:
        explainer = self.explainers[name]
        made = {raw_path(name, part): values[None] for part, values in found.raw.items()}
        checks = explainer.checked(found) | {RANK: rank}
        made[checks_path(name)] = np.array([[checks.get(c, np.nan) for c in self.checks(name)]], np.float32)
        return made

    def checks(self, name: str) -> tuple[str, ...]:
        """Names of the checks that are stored beside a method's maps."""
        explainer = self.explainers[name]
        rank = () if self.settings.precision == "fp32" else (RANK,)
        return (*explainer.COMMON, *explainer.checks, *rank)

    def _rank(self, name: str, at: np.ndarray, target: int, raw: Any, start: int) -> float:
        # the first patch of each work item is explained in float32 too, where the rest is not
        if self.settings.precision == "fp32" or at[0] != start:
            return float("nan")
        raw = raw if isinstance(raw, dict) else {"": raw}
        return self.rank_to_fp32(name, int(at[0]), int(target), raw)

    def rank_to_fp32(self, name: str, at: int, target: int, raw: dict[str, np.ndarray]) -> float:
        """Spearman's correlation of one patch's map with the one that float32 gives."""
        from scipy.stats import spearmanr

        net, explainer = self.net_of(name), self.explainers[name]
        with net.in_fp32(min(FEW, net.asked)) as exact:
            batch = self.batch(name, np.array([at]), np.array([target]))
            whole = next(explainer.explain(exact, batch))[1]
        a, b = explainer.evidence(raw).ravel(), explainer.evidence(whole.raw).ravel()
        if len(a) != len(b) or len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
            return float("nan")
        return float(spearmanr(a, b).statistic)


def _settings_of(output: Path) -> dict[str, Any]:
    # what an existing maps store was made with
    found = read_json(output / "zarr.json")
    try:
        return dict(found["attributes"]["histoxai"]["settings"])
    except (TypeError, KeyError, ValueError):
        return {}


def _compiles(device: torch.device, made_with: dict[str, Any], output: Path, progress: Progress) -> bool:
    # nodes with and without a compiler may share a store: what its first task could do stands
    if made_with.get("compile") is False:
        progress.warn(f"--compile: {output} was begun without it; going on without")
        return False
    if can_compile(device):
        return True
    if made_with.get("compile"):
        raise InputRefused(
            f"{output}: was begun with --compile, and torch.compile does not work here (it needs a C++ compiler); run "
            "this on a machine like the first"
        )
    progress.warn("--compile: torch.compile does not work here (it needs a C++ compiler); going on without it")
    return False


def _micro_batch(
    settings: Explain,
    module: torch.nn.Module,
    device: torch.device,
    size: tuple[int, int],
    made_with: dict[str, Any],
    progress: Progress,
) -> int:
    # as asked for, as the store has it, as many as pay, or on a GPU as many as fit
    if settings.micro_batch is not None:
        return settings.micro_batch
    if isinstance(made_with.get("micro_batch"), int):
        return int(made_with["micro_batch"])
    if device.type != "cuda":
        return worthwhile(module, size)
    fitting = largest_that_fits(fits_on_gpu(Network(module, 1, settings.precision), size))
    torch.cuda.empty_cache()  # for the processes that share this GPU
    progress.say(f"{device}: micro-batches of {fitting} patches fit")
    return fitting


def _check(patches: Patches, run: Run, progress: Progress) -> None:
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
    if run.facts["parents"]["patches"]["digest"] != patches.digest:
        progress.warn(
            f"{run.path} was trained on another patch store than {patches.path}: its test patches may have been "
            "trained on"
        )


def _target(target: str, patches: Patches, rows: np.ndarray) -> np.ndarray | None:
    # one class number per patch, or None for the predicted class
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


def _nuclei(
    path: Path | None, explainers: dict[str, Explainer], patches: Patches, rows: np.ndarray
) -> tuple[Store, np.ndarray] | None:
    # the masks store and its row of each patch, where a method takes its segments from there
    wanted = [n for n, e in explainers.items() if getattr(e.options, "segments", "") == "nuclei"]
    if not wanted:
        if path is not None:
            raise UsageError("--masks: no method asks for nuclei; add -O lime.segments=nuclei")
        return None
    if path is None:
        raise UsageError(f"-O {wanted[0]}.segments=nuclei: takes nuclei from a masks store; name it with --masks")
    masks = open_store(path, "masks", "masks")
    if masks.header["parents"]["patches"]["digest"] != patches.digest:
        raise InputRefused(
            f"{path}: has the masks of another patch store than {patches.path}; run `histoxai masks` on the one that "
            "is explained"
        )
    place = {p: i for i, p in enumerate(masks.read("patch_id").tolist())}
    ids = patches.patch_id[rows].tolist()
    absent = [i for i in ids if i not in place]
    if absent:
        raise Incomplete(
            f"{path}: has no mask of {len(absent)} of {len(ids)} patches, such as {absent[0]}; run `histoxai masks` on "
            f"{patches.path} with the same --split"
        )
    at = np.array([place[i] for i in ids])
    state = masks.completeness()["masks"]
    if state["rows"] != len(place) or not rows_done(state)[at].all():
        masks.require_complete()
    return masks, at
