"""Open a scores store with all its ancestors, each checked against the digest on record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from histoxai import __version__
from histoxai.core.errors import Damaged, Incomplete, InputRefused, ParentChanged
from histoxai.core.s3_paths import with_s3_urls
from histoxai.explain.maps_store import StoredMethod, stored_methods
from histoxai.networks.run_folder import Run, run_parent
from histoxai.report.content import RunFacts
from histoxai.report.figures.maps import MaskedPatch, PatchMaps
from histoxai.report.figures.style import abbreviate
from histoxai.store.parents import Opened, ParentKind, join_rows, open_parent
from histoxai.store.patches import PATCHES_PARENT, Patches
from histoxai.store.records import item_names, read_item
from histoxai.store.shards import Store, open_store
from histoxai.store.state import rows_done
from histoxai.store.storage.s3_mirror import locate_parent

# Items of a scores store that must be complete: tests on the model may be missing or running.
REQUIRED_ITEMS = ("index", "scores")


class Partial(TypedDict):
    """How many of the explained patches have scores, if not all: `patches` of `of`."""

    patches: int
    of: int


@dataclass
class Lineage:
    """A scores store and its ancestors.

    rows: the rows of the scores store that have scores. "Position" means an index into these rows.
    """

    scores: Store
    maps: Store
    masks: Store
    patches: Patches
    classifier: Run
    segmenter: Run
    rows: np.ndarray

    def column(self, path: str) -> np.ndarray:
        """Read an array of the scores store, at `rows`."""
        return self.scores.take(path, self.rows)

    @property
    def partial(self) -> Partial | None:
        """How many patches have scores; None if all have."""
        recorded = self.scores.header.get("partial")
        total = recorded["of"] if recorded else self.scores.array("values").shape[0]
        return {"patches": len(self.rows), "of": total} if recorded or len(self.rows) < total else None

    @property
    def partial_note(self) -> str:
        """The note on figures of an incomplete store, as in "partial: 8 of 10 patches"; empty for a complete one."""
        partial = self.partial
        return f"partial: {partial['patches']:,} of {partial['of']:,} patches" if partial else ""

    def facts(self) -> RunFacts:
        """Return the run at a glance; size: height and width; split_by: None for stores that recorded no rule."""
        return {
            "version": __version__,
            "patches": len(self.rows),
            "partial": self.partial_note,
            "groups": len(set(self.column("group").tolist())),
            "split": self.maps.header["settings"]["split"],
            "split_by": self.patches.store.header["settings"].get("split_by"),
            "size": self.patches.size,
            "target": self.scores.header["target"],
            "libraries": ", ".join(
                f"{name} by {method.library}"
                for name, method in self.methods.items()
                if method.library and name in self.method_names
            ),
        }

    @cached_property
    def training_patches(self) -> Patches | None:
        """The patch store that the classifier was trained on; None where it is gone or has changed."""
        if self.classifier.facts["parents"]["patches"]["digest"] == self.patches.digest:
            return self.patches
        return _trained_on(self.classifier)

    @cached_property
    def segmenter_patches(self) -> Patches | None:
        """The patch store that the segmenter was trained on; None where it is gone or has changed."""
        return _trained_on(self.segmenter)

    @cached_property
    def methods(self) -> dict[str, StoredMethod]:
        """The methods of the maps store, by name."""
        return {m.name: m for m in stored_methods(self.maps)}

    @property
    def method_names(self) -> list[str]:
        """Names of the scored methods, in the order of the scores store."""
        return self.scores.header["axes"]["method"]

    @property
    def map_threshold(self) -> float:
        """The threshold above which a rendered map counts as positive."""
        return self.scores.header["settings"]["map_threshold"]

    def history(self, which: Literal["classifier", "segmenter"]) -> dict[str, np.ndarray]:
        """Read the training curves of a network: column -> (epochs,)."""
        run = self.classifier if which == "classifier" else self.segmenter
        store = open_store(run.path / "history.zarr", "history", "train-cls")
        return {name: store.read(name) for name in store.arrays()}

    def rendered_maps(self, method: str, positions: Sequence[int]) -> list[np.ndarray]:
        """Render maps (H, W) float64 in 0..1 of some patches, in the corrected profile."""
        stored = self.methods[method]
        return [stored.plane(raw, 0, self.patches.size) for raw in self._raw(method, positions)]

    def signed_maps(self, method: str, positions: Sequence[int]) -> list[np.ndarray]:
        """Return the signed evidence (H, W) of some patches, summed over channels."""
        stored = self.methods[method]
        return [stored.signed(raw, 0, self.patches.size) for raw in self._raw(method, positions)]

    def relevance_maps(self, method: str, positions: Sequence[int]) -> list[np.ndarray]:
        """Return the evidence (H, W) of some patches that measures rank: of the sign that was scored."""
        stored, sign = self.methods[method], self.scores.header["settings"]["sign"]
        return [stored.relevance(raw, 0, self.patches.size, sign) for raw in self._raw(method, positions)]

    def patch_maps(self, method: str, positions: Sequence[int]) -> list[PatchMaps]:
        """Return signed evidence and rendered maps of some patches, for a figure."""
        signed, rendered = self.signed_maps(method, positions), self.rendered_maps(method, positions)
        return [PatchMaps(s, r) for s, r in zip(signed, rendered, strict=True)]

    def _raw(self, method: str, positions: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        stored, (_, maps, _) = self.methods[method], self._parent_rows
        for i in positions:
            yield stored.take(self.maps, maps[[i]])

    def images(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Read some patches (H, W, 3) uint8."""
        return list(self.patches.read(self._parent_rows[0][list(positions)]))

    def binary_masks(self, positions: Sequence[int]) -> np.ndarray:
        """Return tumor and non-tumor mask (n, 2, H, W) bool of some patches."""
        masks = self._parent_rows[2]
        probability: np.ndarray = self.masks.take("probability", masks[list(positions)])
        return probability > self.scores.header["settings"]["mask_threshold"]

    def masked_patches(self, positions: Sequence[int], titles: Sequence[str] | None = None) -> list[MaskedPatch]:
        """Return some patches with their masks and, if given, the titles of their rows, for a figure."""
        patches = zip(titles or [""] * len(positions), self.images(positions), strict=True)
        masks = self.binary_masks(positions)
        return [MaskedPatch(t, image, m[0], m[1]) for (t, image), m in zip(patches, masks, strict=True)]

    @cached_property
    def _parent_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # for every position its row in the patches, the maps and the masks store
        ids = self.column("patch_id")
        maps, masks = (join_rows(ids, store.read("patch_id")) for store in (self.maps, self.masks))
        if (maps < 0).any() or (masks < 0).any():
            raise ParentChanged(f"{self.scores.path}: has patches that its maps or masks lack; score them again")
        return self.column("row"), maps, masks

    @cached_property
    def _predicted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.column("prediction"), self.column("probability")

    def patch_title(self, position: int, class_name: str) -> str:
        """Return a patch's class, predicted class and probability in two lines."""
        prediction, probability = self._predicted
        predicted = abbreviate(self.patches.classes[int(prediction[position])])
        return f"{abbreviate(class_name)}\npred. {predicted}, {probability[position]:.2f}"

    def ancestors(self) -> list[dict[str, str]]:
        """Return name, path, digest and command of every ancestor, and of the scores store."""
        stores: list[tuple[str, Path, str, Mapping[str, Any]]] = [
            ("patches", self.patches.path, self.patches.digest, self.patches.store.header),
            ("classifier", self.classifier.path, self.classifier.digest, self.classifier.facts),
            ("segmenter", self.segmenter.path, self.segmenter.digest, self.segmenter.facts),
            ("masks", self.masks.path, self.masks.digest(), self.masks.header),
            ("maps", self.maps.path, self.maps.digest(), self.maps.header),
            ("scores", self.scores.path, self.scores.digest(), self.scores.header),
        ]
        rows = [{"name": n, "path": str(p), "digest": d, "command": h["run"]["command"]} for n, p, d, h in stores]
        return list(with_s3_urls(rows))

    def commands(self) -> list[str]:
        """Return every command that led to the scores, in an order in which they can be run again.

        The commands behind the patches and the nuclei are included as far as their stores still exist.
        """
        commands = [*_commands_of_patches(self.patches), self.classifier.facts["run"]["command"]]
        if (nuclei := _patches_of(self.segmenter)) is not None:
            commands += _commands_of_patches(nuclei)
        commands.append(self.segmenter.facts["run"]["command"])
        for store in (self.masks, self.maps, self.scores):
            used = [name for name in item_names(store.path) if store is not self.maps or name in self.methods]
            items = [read_item(store.path, name) for name in used]
            commands += [store.header["run"]["command"], *[item["command"] for item in items if item]]
        return list(with_s3_urls(list(dict.fromkeys(commands))))


def _commands_of_patches(patches: Patches) -> list[str]:
    # the commands that made a patch store, the oldest first
    command = patches.store.header["run"]["command"]
    if "patches" in patches.store.header["parents"]:
        parent = _opened(locate_parent(patches.path, patches.store.header["parents"]["patches"]["path"]))
        return [*_commands_of_patches(parent), command] if parent else [command]
    return [command]


def _trained_on(run: Run) -> Patches | None:
    store = _patches_of(run)
    return store if store is not None and store.digest == run.facts["parents"]["patches"]["digest"] else None


def _patches_of(run: Run) -> Patches | None:
    with suppress(KeyError):
        return _opened(locate_parent(run.path, run.facts["parents"]["patches"]["path"]))
    return None


def _opened(path: Path) -> Patches | None:
    """Open a patch store that may be gone; None where it is missing or damaged.

    An error of the system is raised: the page must not depend on whether a read failed for a moment.
    """
    try:
        return Patches(path)
    except (InputRefused, Incomplete, Damaged) as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise
        return None


def resolve_lineage(path: Path, moved: Mapping[str, Path | None], allow_partial: bool = False) -> Lineage:
    """Open a scores store and all its ancestors.

    moved: new paths of parents by name ("maps", "masks", "patches", "model", "segmenter"), None for the recorded one.
    Raises ParentChanged if a parent is missing or differs from the one that was used, and Incomplete if not all
    patches have scores and `allow_partial` is not set.
    """
    scores = open_store(path, "scores", "score")
    rows = _scored_rows(scores, allow_partial)
    used = ["index", "predictions", *scores.header["axes"]["method"]]  # methods may have been added since
    maps_parent = ParentKind("maps", lambda p: open_store(p, "maps", "explain"), lambda store: store.digest(used))
    masks_parent = ParentKind("masks", lambda p: open_store(p, "masks", "masks"), lambda store: store.digest())

    def parent(kind: ParentKind[Opened], child: Store) -> Opened:
        return open_parent(kind, child.path, child.header, moved.get(kind.name))

    maps, masks = parent(maps_parent, scores), parent(masks_parent, scores)
    patches = parent(PATCHES_PARENT, maps)
    classifier = parent(run_parent("model", "classifier"), maps)
    segmenter = parent(run_parent("segmenter", "segmenter"), masks)
    return Lineage(scores, maps, masks, patches, classifier, segmenter, rows)


def _scored_rows(scores: Store, allow_partial: bool) -> np.ndarray:
    partial = scores.header.get("partial")
    if not allow_partial:
        scores.require_complete(REQUIRED_ITEMS)
        if partial:
            command = re.sub(r" --allow-partial\b", "", scores.header["run"]["command"])
            raise Incomplete(
                f"{scores.path}: was made with --allow-partial, from {partial['patches']} of {partial['of']} patches; "
                f"run `{'`, `'.join(partial['commands'])}`, then `{command} --force`, or go on with --allow-partial"
            )
    rows = np.flatnonzero(rows_done(scores.completeness()["scores"]))
    if not len(rows):
        scores.require_complete(REQUIRED_ITEMS)
    return rows
