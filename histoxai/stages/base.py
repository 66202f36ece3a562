"""The skeleton of a stage that fills its output shard by shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from histoxai.core import provenance
from histoxai.core.progress import Progress
from histoxai.networks.run_folder import open_run
from histoxai.settings import Work
from histoxai.store.create import create_or_match, match
from histoxai.store.jobs.runner import Producers, Task, run_shards
from histoxai.store.patches import Patches
from histoxai.store.shards import Item, Store

if TYPE_CHECKING:
    import torch


class ShardedStage(ABC):
    """Fills one output store: in this process, with several workers, or as one task of an array job.

    A subclass opens and checks its inputs in `__init__`. It describes the output by `header`, `index`, `items` and
    `attributes`, and computes its rows in `produce`. `fill` creates the store, or opens the one that is there, and
    does the missing shards. A stage with a network takes its device from here.
    """

    def __init__(self, output: Path, settings: Any, progress: Progress, work: Work) -> None:
        self.output, self.settings, self.progress, self.work = output, settings, progress, work
        self.facts: dict[str, Any] = {"threads": work.threads}  # written into each shard's record
        self.attributes: dict[str, Any] = {}  # of the root group, beside the header
        self.write_behind = False  # whether shards are written while the next ones are computed

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """Return the store's header: schema, settings, seed and parents (`provenance.header`)."""

    @abstractmethod
    def index(self) -> dict[str, np.ndarray]:
        """Return the small arrays that are written when the store is created: path -> ids, labels and so on, (n,)."""

    @abstractmethod
    def items(self) -> Sequence[Item]:
        """Return the items, in the order in which each shard does them."""

    @abstractmethod
    def produce(self, store: Store) -> Producers:
        """Load what the work needs, such as a network, and return what computes the rows of each item, by name.

        It is called only if a shard is missing. store: the output.
        """

    @cached_property
    def device(self) -> torch.device:
        """The device of this process: `settings.device`, where `cuda` gives each worker rank the next GPU."""
        from histoxai.networks.inference import pick_device, repeat_to_the_byte  # torch: other stages do without

        settings = self.network_settings
        device = pick_device(settings.device, self.work.rank, getattr(settings, "precision", "fp32"))
        if device.type == "cuda":
            self.write_behind = True
            repeat_to_the_byte()
        return device

    @property
    def network_settings(self) -> Any:
        """The settings with `device`, and with `precision` where it can be chosen."""
        return self.settings

    def fill(self, rerun: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Do the missing shards; return `shards` (as `--shard` reads them) and `done` (how many, by item name).

        rerun: the stage with its inputs bound, for worker processes: rerun(progress=..., work=...). Raises
        SettingsDiffer if the output exists and was made with other settings, seed or parents.
        """
        output, header, items = self.output, self.header(), list(self.items())
        force = self.work.force

        def create() -> Store:
            index = self.index()
            return create_or_match(output, header, index, items, attrs=self.attributes, force=force)

        look = (lambda: match(output, header, items)) if output.exists() and not force else None
        task = Task(items, create, look, self.produce, rerun, self.facts, self.write_behind)
        return run_shards(task, self.progress, self.work)


class InferenceStage(ShardedStage):
    """Runs the network of a run folder over the patches of a split, in float32.

    A subclass names the kind of its run folder, the schema of its output and its only item. It puts settings of its own
    into `recorded`, and computes rows in `infer`.
    """

    kind: ClassVar[str]
    schema: ClassVar[str]
    item_name: ClassVar[str]

    def __init__(self, source: Path, model: Path, output: Path, settings: Any, progress: Progress, work: Work) -> None:
        super().__init__(output, settings, progress, work)
        provenance.keep_apart(output, source, model)
        self.patches, self.run = Patches(source), open_run(model, self.kind)
        self.rows = self.patches.rows(settings.split)
        self.facts["micro_batch"] = settings.micro_batch
        self.recorded: dict[str, Any] = {"split": settings.split}

    @abstractmethod
    def infer(self, network: torch.nn.Module, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return the rows of each array for patches (n, H, W, 3) uint8."""

    def header(self) -> dict[str, Any]:
        settings = {
            **self.recorded,
            "micro_batch": self.settings.micro_batch,
            "device": self.device.type,
            "precision": "fp32",
            "memory_format": "channels_last",
            "shard_size": self.settings.shard_size,
        }
        parents = {
            "patches": provenance.parent(self.patches.path, self.output, self.patches.digest),
            self.kind: provenance.parent(self.run.path, self.output, self.run.digest),
        }
        return provenance.header(self.schema, settings, None, parents)

    def index(self) -> dict[str, np.ndarray]:
        return {"row": self.rows.astype(np.int32), "patch_id": self.patches.patch_id[self.rows]}

    def produce(self, store: Store) -> Producers:
        from histoxai.networks.weights import load_model

        network = load_model(self.run, self.device)
        return {self.item_name: lambda start, stop: self.infer(network, self.patches.read(self.rows[start:stop]))}
