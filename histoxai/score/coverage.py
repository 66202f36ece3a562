"""Find the explained patches that can be scored: those that have every map and a mask."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core.errors import Incomplete, InputRefused
from histoxai.core.s3_paths import relative_name, resolve_name, with_s3_urls
from histoxai.explain.maps_store import StoredMethod, stored_methods
from histoxai.store.parents import join_rows
from histoxai.store.shards import Store
from histoxai.store.state import fill_command, format_ranges, gaps_text, rows_done


@dataclass(frozen=True)
class Coverage:
    """Which patches and methods can be scored.

    rows, masks (k,): rows of the patches in the maps store and in the masks store. partial: None where nothing is
    missing, else how many patches of how many, the gaps, and the commands that fill them. absent: methods that have not
    begun.
    """

    methods: list[StoredMethod]
    rows: np.ndarray
    masks: np.ndarray
    partial: dict[str, Any] | None
    absent: list[str]


def coverage(maps: Store, masks: Store, allow_partial: bool) -> Coverage:
    """Join maps and masks on patch_id.

    Raises InputRefused where they are not of the same patches, and Incomplete where something is missing and
    `allow_partial` is not set, or nothing would remain.
    """
    if not allow_partial:
        maps.require_complete()
        masks.require_complete()
    _require_same_patches(maps, masks)
    mask_rows = _mask_rows(maps, masks, allow_partial)
    states = {"maps": maps.completeness(), "masks": masks.completeness()}
    begun = {name for name, state in states["maps"].items() if len(state["missing"]) < state["shards"]}
    stored = stored_methods(maps)
    methods, absent = [m for m in stored if m.name in begun], [m.name for m in stored if m.name not in begun]
    done = (mask_rows >= 0) & np.append(rows_done(states["masks"]["masks"]), False)[mask_rows]
    for name in ("predictions", *[m.name for m in methods]):
        done &= rows_done(states["maps"][name])
    rows = np.flatnonzero(done)
    if not len(rows) or not methods:
        raise _nothing_to_score(maps, masks, states)
    partial = None
    if len(rows) < len(mask_rows) or absent:
        commands = _fill_commands(states)
        if (mask_rows < 0).any():
            commands.append(_masks_command(maps, masks))
        partial = {"patches": len(rows), "of": len(mask_rows), "gaps": _gaps(states), "commands": commands}
    return Coverage(methods, rows, mask_rows[rows], partial, absent)


def _gaps(states: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    # missing shards of each item of both stores, as ranges
    return {
        kind: {name: format_ranges(state["missing"]) for name, state in items.items() if state["missing"]}
        for kind, items in states.items()
    }


def _fill_commands(states: dict[str, dict[str, Any]]) -> list[str]:
    # items that one command made are filled by one command
    missing: dict[str, set[int]] = {}
    for items in states.values():
        for state in items.values():
            if state["missing"]:
                missing.setdefault(state["command"], set()).update(state["missing"])
    return [fill_command(command, shards) for command, shards in missing.items()]


def _nothing_to_score(maps: Store, masks: Store, states: dict[str, dict[str, Any]]) -> Incomplete:
    for store, items in zip((maps, masks), states.values(), strict=True):
        for name, state in items.items():
            if state["missing"]:
                return Incomplete(gaps_text(store.path, name, state["missing"], state["command"]))
    return Incomplete(f"{masks.path}: has no mask of any explained patch")


def _require_same_patches(maps: Store, masks: Store) -> None:
    theirs, ours = maps.header["parents"]["patches"], masks.header["parents"]["patches"]
    if theirs["digest"] != ours["digest"]:
        raise InputRefused(
            f"{maps.path} and {masks.path} were made from different patch stores ({theirs['path']}, {ours['path']}; "
            "digests differ); run `histoxai masks` on the store that was explained"
        )


def _masks_command(maps: Store, masks: Store) -> str:
    # masks of the split that was explained, in a store of their own
    split = maps.header["settings"]["split"]
    folder = masks.path.parent
    place = {k: relative_name(Path(), resolve_name(folder, v["path"])) for k, v in masks.header["parents"].items()}
    output = with_s3_urls(str(masks.path.with_name(f"{masks.path.stem}-{split}.zarr")))
    return shlex.join(
        ["histoxai", "masks", place["patches"], "--model", place["segmenter"], "--split", split, "-o", output]
    )


def _mask_rows(maps: Store, masks: Store, allow_absent: bool) -> np.ndarray:
    # the row in `masks` of every map, joined on patch_id; -1 where it has none
    ids = maps.read("patch_id")
    at = join_rows(ids, masks.read("patch_id"))
    absent = ids[at < 0]
    if len(absent) and not allow_absent:
        raise Incomplete(
            f"{masks.path}: has no mask of {len(absent)} of {len(ids)} explained patches, such as {absent[0]}; "
            f"run `{_masks_command(maps, masks)}` and score with those"
        )
    return at
