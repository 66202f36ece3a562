"""From a scores store back to all it came from, each ancestor checked against the digest on record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import HistoxaiError, Incomplete
from histoxai.core.s3_paths import with_s3_urls
from histoxai.explain.maps_store import StoredMethod, stored_methods
from histoxai.networks.run_folder import Run, run_parent
from histoxai.report.figures.figures import short as shortened
from histoxai.store.parents import Opened, ParentKind, join_rows, open_parent
from histoxai.store.patches import PATCHES_PARENT, Patches
from histoxai.store.records import item_names, read_item
from histoxai.store.shards import Store, open_store
from histoxai.store.state import rows_done
from histoxai.store.storage.s3_mirror import locate_parent

# What has to be there of a scores store: tests on the model may come later, or be under way.
SCORES = ("index", "scores")


@dataclass
class Lineage:
    """A scores store and its ancestors."""

    scores: Store
    maps: Store
    masks: Store
    patches: Patches
    classifier: Run
    segmenter: Run
    # rows of the scores store that are there; positions below are positions among these
    rows: np.ndarray

    def column(self, path: str) -> np.ndarray:
        """An array of the scores store, of the rows that are there."""
        return self.scores.take(path, self.rows)

    @property
    def partial(self) -> dict[str, Any] | None:
        """None where all explained patches are scored; else how many of how many `patches` are."""
        known = self.scores.header.get("partial")
        total = known["of"] if known else self.scores.array("values").shape[0]
        return {"patches": len(self.rows), "of": total} if known or len(self.rows) < total else None

    @cached_property
    def methods(self) -> dict[str, StoredMethod]:
        return {m.name: m for m in stored_methods(self.maps)}

    def history(self, which: str) -> dict[str, np.ndarray]:
        """Training curves of "classifier" or "segmenter": column -> (epochs,)."""
        run = self.classifier if which == "classifier" else self.segmenter
        store = open_store(run.path / "history.zarr", "history", "train-cls")
        return {name: store.read(name) for name in store.arrays()}

    def planes(self, method: str, rows: Sequence[int]) -> list[np.ndarray]:
        """Rendered maps (H, W) of some scored patches, corrected profile."""
        found = self.methods[method]
        return [found.plane(raw, 0, self.patches.size) for raw in self._raw(method, rows)]

    def signed(self, method: str, rows: Sequence[int]) -> list[np.ndarray]:
        """Signed evidence (H, W) of some scored patches, channels added up."""
        found = self.methods[method]
        return [found.signed(raw, 0, self.patches.size) for raw in self._raw(method, rows)]

    def relevance(self, method: str, rows: Sequence[int]) -> list[np.ndarray]:
        """The evidence (H, W) of some scored patches that measures rank."""
        found, sign = self.methods[method], self.scores.header["settings"]["sign"]
        return [found.relevance(raw, 0, self.patches.size, sign) for raw in self._raw(method, rows)]

    def _raw(self, method: str, rows: Sequence[int]) -> Iterator[dict[str, np.ndarray]]:
        found, (_, maps, _) = self.methods[method], self._places
        for i in rows:
            yield found.take(self.maps, maps[[i]])

    def pictures(self, rows: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Patch (H, W, 3) uint8, tumor and non-tumor mask (H, W) bool of some scored patches."""
        patches, _, _ = self._places
        planes = self.binary(rows)
        return list(self.patches.read(patches[list(rows)])), [p[0] for p in planes], [p[1] for p in planes]

    def binary(self, rows: Sequence[int]) -> np.ndarray:
        """Tumor and non-tumor mask (n, 2, H, W) bool of some scored patches."""
        _, _, masks = self._places
        found: np.ndarray = self.masks.take("probability", masks[list(rows)])
        return found > self.scores.header["settings"]["mask_threshold"]

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        # for every scored patch its row in the patches, the maps and the masks store
        ids = self.column("patch_id")
        maps, masks = (join_rows(ids, store.read("patch_id")) for store in (self.maps, self.masks))
        return self.column("row"), maps, masks

    @cached_property
    def _predicted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.column("prediction"), self.column("probability")

    def title(self, row: int, name: str) -> str:
        """A patch's class, predicted class and probability in two lines."""
        prediction, probability = self._predicted
        taken = shortened(self.patches.classes[int(prediction[row])])
        return f"{shortened(name)}\npred. {taken}, {probability[row]:.2f}"

    def ancestors(self) -> list[dict[str, str]]:
        """Name, path, digest and command of every ancestor."""
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
        """Every command that the scores come from, in an order in which they can be run again.

        Of what the patches and the nuclei were made from too, as far as it is still there.
        """
        made = [*_back(self.patches), self.classifier.facts["run"]["command"]]
        if (nuclei := _patches_of(self.segmenter)) is not None:
            made += _back(nuclei)
        made.append(self.segmenter.facts["run"]["command"])
        for store in (self.masks, self.maps, self.scores):
            used = [name for name in item_names(store.path) if store is not self.maps or name in self.methods]
            items = [read_item(store.path, name) for name in used]
            made += [store.header["run"]["command"], *[item["command"] for item in items if item]]
        return list(with_s3_urls(list(dict.fromkeys(made))))


def _back(patches: Patches) -> list[str]:
    # the commands that made a patch store, the oldest first
    made = [patches.store.header["run"]["command"]]
    if "patches" in patches.store.header["parents"]:
        place = locate_parent(patches.path, patches.store.header["parents"]["patches"]["path"])
        with suppress(HistoxaiError):
            return [*_back(Patches(place)), *made]
    return made


def _patches_of(run: Run) -> Patches | None:
    with suppress(HistoxaiError, KeyError):
        return Patches(locate_parent(run.path, run.facts["parents"]["patches"]["path"]))
    return None


def resolve_lineage(path: Path, moved: Mapping[str, Path | None], allow_partial: bool = False) -> Lineage:
    """Open a scores store and all its ancestors; `moved` names those that are no longer where they were.

    Raises ParentChanged where one is not the one that was used, InputRefused where one is gone, Incomplete where
    not all patches are scored and `allow_partial` is not set.
    """
    scores = open_store(path, "scores", "score")
    rows = _scored(scores, allow_partial)

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


def _scored(scores: Store, allow_partial: bool) -> np.ndarray:
    partial = scores.header.get("partial")
    if not allow_partial:
        scores.require_complete(SCORES)
        if partial:
            again = re.sub(r" --allow-partial\b", "", scores.header["run"]["command"])
            raise Incomplete(
                f"{scores.path}: was made with --allow-partial, from {partial['patches']} of {partial['of']} patches; "
                f"run `{'`, `'.join(partial['commands'])}`, then `{again} --force`, or go on with --allow-partial"
            )
    rows = np.flatnonzero(rows_done(scores.completeness()["scores"]))
    if not len(rows):
        scores.require_complete(SCORES)
    return rows
