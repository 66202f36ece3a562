"""Which patches of a store are related, so that a split that parts them leaks: one edge list for each kind.

group: same scan or patient. copy: rotated copies that `augment` made of one patch. duplicate: all pixels equal.
rotated: equal after a turn or a mirror. overlap: tiles that share an area of one slide. near: perceptual hashes that
differ in few bits, on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from histoxai.transforms.identity import NOBODY, turned

KINDS = ("group", "copy", "duplicate", "rotated", "overlap", "near")
_BLOCK = 1 << 22  # pairs of hashes compared at once


@dataclass(frozen=True)
class Places:
    """Where tiles lie: frame (n,) str, a slide, "" for none; x, y (n,) upper-left corner and extent (n,) side, px."""

    frame: np.ndarray
    x: np.ndarray
    y: np.ndarray
    extent: np.ndarray


@dataclass(frozen=True)
class Identity:
    """What is known of every patch (n,); None for what a store does not have.

    group: str; parent: int, equal for copies of one patch; content, orbit (n, 2) uint64; perceptual (n,) uint64.
    """

    group: np.ndarray
    parent: np.ndarray | None = None
    content: np.ndarray | None = None
    orbit: np.ndarray | None = None
    perceptual: np.ndarray | None = None
    places: Places | None = None

    def __len__(self) -> int:
        return len(self.group)


def relations(who: Identity, near: int | None = None) -> dict[str, np.ndarray]:
    """Pairs of rows (k, 2) for each kind that can be told; `near`: bits that perceptual hashes may differ in.

    Kinds that are an equality (all but overlap and near) come as chains: rows that are equal are linked one to the
    next, not each to each. `rotated` links patches of one orbit, so it also holds their exact duplicates.
    """
    made = {"group": _chains(who.group)}
    if who.parent is not None:
        made["copy"] = _chains(who.parent)
    if who.content is not None and who.orbit is not None:
        made["duplicate"] = _chains(_one(who.content), np.any(who.content, axis=1))
        made["rotated"] = _chains(_one(who.orbit), np.any(who.orbit, axis=1))
    if who.places is not None:
        made["overlap"] = overlaps(who.places)
    if near is not None and who.perceptual is not None:
        made["near"] = near_pairs(who.perceptual, near)
    return made


def families(n: int, edges: Mapping[str, np.ndarray]) -> np.ndarray:
    """The family of each of n rows (n,): rows that any chain of relations links; numbered by their first row."""
    pairs = np.concatenate([np.empty((0, 2), np.int64), *edges.values()])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    found = connected_components(graph, directed=False)[1]
    _, first, member = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member]


def overlaps(at: Places) -> np.ndarray:
    """Pairs (k, 2) of tiles of one frame that share more than an edge."""
    pairs = [np.empty((0, 2), np.int64)]
    order = np.argsort(at.frame, kind="stable")
    for rows in np.split(order, np.flatnonzero(at.frame[order][1:] != at.frame[order][:-1]) + 1):
        if not len(rows) or not at.frame[rows[0]]:  # a patch without coordinates
            continue
        corner = np.column_stack([at.x[rows], at.y[rows]]).astype(np.float64)
        side = at.extent[rows].astype(np.float64)
        close = cKDTree(corner).query_pairs(side.max(), p=np.inf, output_type="ndarray").astype(np.int64)
        a, b = close[:, 0], close[:, 1]
        low = np.maximum(corner[a], corner[b])
        high = np.minimum(corner[a] + side[a, None], corner[b] + side[b, None])
        pairs.append(rows[close[(high > low).all(axis=1)]])
    return np.concatenate(pairs)


def near_pairs(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Pairs (k, 2) of rows whose perceptual hashes differ in at most `bits`, for any turn or mirror of one of them.

    Two hashes that differ in r bits agree on one of r + 1 bands of bits: only rows that share a band are compared.
    """
    known = np.flatnonzero(hashes != NOBODY)
    own, versions = hashes[known], turned(hashes[known])
    edges = np.linspace(1, 64, bits + 2).round().astype(int)  # bit 0 is the same in all
    found = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mask = np.uint64((1 << high) - (1 << low))
        keys = own & mask
        order = np.argsort(keys, kind="stable")
        for version in versions:
            found.append(known[_close(own, order, keys[order], version, version & mask, bits)])
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)


def _close(
    own: np.ndarray, order: np.ndarray, keys: np.ndarray, version: np.ndarray, wanted: np.ndarray, bits: int
) -> np.ndarray:
    # pairs (k, 2) of places: those of `own` in a version's band, at most `bits` away from it
    first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    many = last - first
    found, start, ends = [np.empty((0, 2), np.int64)], 0, np.cumsum(many)
    while start < len(many):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _BLOCK)))
        some = many[start:stop]
        b = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(b)) - np.repeat(np.cumsum(some) - some, some)
        a = order[np.repeat(first[start:stop], some) + within]
        near = np.bitwise_count(own[a] ^ version[b]) <= bits
        found.append(np.column_stack([a[near], b[near]]))
        start = stop
    return np.concatenate(found)


def _chains(keys: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    rows = np.arange(len(keys)) if known is None else np.flatnonzero(known)
    order = rows[np.argsort(keys[rows], kind="stable")]
    same = keys[order][1:] == keys[order][:-1]
    return np.column_stack([order[:-1][same], order[1:][same]]).astype(np.int64)


def _one(hashes: np.ndarray) -> np.ndarray:
    # (n, 2) uint64 as one value each that can be sorted and compared
    return np.ascontiguousarray(hashes).view([("a", np.uint64), ("b", np.uint64)]).ravel()


# ---- leaks


def leaks(
    who: Identity, edges: Mapping[str, np.ndarray], split: np.ndarray, held: int, seen: int
) -> dict[str, np.ndarray]:
    """Rows of split `held` that have a relative in split `seen`, by kind, and of `any` kind; split (n,) uint8.

    edges: `relations(who)`. `rotated` leaves out rows that have an exact duplicate there.
    """
    found = {}
    for kind, pairs in edges.items():
        if kind in ("overlap", "near"):
            found[kind] = _across(pairs, split, held, seen)
        else:
            found[kind] = _by_family(families(len(who), {kind: pairs}), split, held, seen)
    if "rotated" in found:
        found["rotated"] = np.setdiff1d(found["rotated"], found["duplicate"])
    rows = [r for r in found.values() if len(r)]
    return found | {"any": np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)}


def _by_family(family: np.ndarray, split: np.ndarray, held: int, seen: int) -> np.ndarray:
    return np.flatnonzero((split == held) & np.isin(family, family[split == seen]))


def _across(pairs: np.ndarray, split: np.ndarray, held: int, seen: int) -> np.ndarray:
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return np.unique(both[(split[both[:, 0]] == held) & (split[both[:, 1]] == seen), 0])
