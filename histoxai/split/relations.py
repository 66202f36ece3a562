"""Which patches of a store are related, so that a split that parts them leaks.

scan, patient: same one, where known (site: on request). copy: rotated copies that `augment` made of one patch.
duplicate: all pixels equal. rotated: equal after a turn or a mirror. overlap: tiles that share an area of one slide.
near: perceptual hashes that differ in few bits, on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from histoxai.ingest.hashes import NO_HASH, hashes_of_rotations

PIXELS = ("duplicate", "rotated", "overlap", "near")  # kinds in which copies of one patch would come again
_BLOCK = 1 << 22  # pairs of hashes compared at once


@dataclass(frozen=True)
class TilePositions:
    """Where tiles lie: frame (n,) str, a slide, "" for none; x, y (n,) upper-left corner; width, height (n,), px."""

    frame: np.ndarray
    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    height: np.ndarray


@dataclass(frozen=True)
class PatchIdentity:
    """What is known of n patches; None for what a store does not have.

    groups: by kind (`scan`, `patient`, ...) names (n,) str, "" where unknown; parent (n,): equal for copies of one
    patch; content, orbit (n, 2) uint64; perceptual (n,) uint64.
    """

    groups: Mapping[str, np.ndarray]
    parent: np.ndarray | None = None
    content: np.ndarray | None = None
    orbit: np.ndarray | None = None
    perceptual: np.ndarray | None = None
    places: TilePositions | None = None

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))


@dataclass(frozen=True)
class Relation:
    """One kind of relation among n patches.

    code (n,) int64: patches of one code are related, -1 to none. pairs (k, 2): codes that are related too; this goes
    no further than one step: of three tiles in a row the outer two share nothing.
    """

    code: np.ndarray
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def edges(self) -> np.ndarray:
        """Pairs of rows (k, 2) whose chains join all that are related."""
        rows = np.flatnonzero(self.code >= 0)
        order = rows[np.argsort(self.code[rows], kind="stable")]
        same = self.code[order][1:] == self.code[order][:-1]
        first = np.full(self.code.max(initial=-1) + 1, -1)
        first[self.code[order][::-1]] = order[::-1]
        return np.concatenate([np.column_stack([order[:-1][same], order[1:][same]]), first[self.pairs]]).astype(
            np.int64
        )


def relations(who: PatchIdentity, near: int | None = None) -> dict[str, Relation]:
    """The relation of each kind that can be told; `near`: bits that perceptual hashes may differ in.

    `rotated` relates patches of one orbit, so exact duplicates too.
    """
    made = {kind: _equal(names, names != "") for kind, names in who.groups.items()}
    if who.parent is not None:
        made["copy"] = _equal(who.parent)
    if who.content is not None and who.orbit is not None:
        made["duplicate"] = _equal(_one(who.content), np.any(who.content, axis=1))
        made["rotated"] = _equal(_one(who.orbit), np.any(who.orbit, axis=1))
    if who.places is not None:
        made["overlap"] = overlapping_tiles(who.places)
    if near is not None and who.perceptual is not None:
        made["near"] = near_pairs(who.perceptual, near)
    return made


def connected_components_of(n: int, related: Mapping[str, Relation]) -> np.ndarray:
    """The family of each of n rows (n,): rows that any chain of relations links; numbered by their first row."""
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(r.edges() for r in related.values())])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    found = connected_components(graph, directed=False)[1]
    _, first, member = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member]


def overlapping_tiles(at: TilePositions) -> Relation:
    """Tiles of one frame that share more than an edge; tiles at the same place have one code."""
    known = np.flatnonzero(at.frame != "")
    _, frame = np.unique(at.frame[known], return_inverse=True)
    corner = np.column_stack([at.x[known], at.y[known]]).astype(np.float64)
    side = np.column_stack([at.width[known], at.height[known]]).astype(np.float64)
    tiles, member = np.unique(np.column_stack([frame, corner, side]), axis=0, return_inverse=True)
    code = np.full(len(at.frame), -1)
    code[known] = member.ravel()
    pairs = [np.empty((0, 2), np.int64)]
    borders = np.flatnonzero(np.diff(tiles[:, 0])) + 1
    for rows in np.split(np.arange(len(tiles)), borders):
        low, size = tiles[rows, 1:3], tiles[rows, 3:5]
        close = cKDTree(low).query_pairs(size.max(initial=0), p=np.inf, output_type="ndarray").astype(np.int64)
        a, b = close[:, 0], close[:, 1]
        begin, end = np.maximum(low[a], low[b]), np.minimum(low[a] + size[a], low[b] + size[b])
        pairs.append(rows[close[(end > begin).all(axis=1)]])
    return Relation(code, np.concatenate(pairs))


def near_pairs(hashes: np.ndarray, bits: int) -> Relation:
    """Rows whose perceptual hashes differ in at most `bits`, for any turn or mirror of one of them.

    Hashes are compared once each, whatever the number of rows that have them, in the least of their eight versions.
    Two that differ in r bits agree on one of r + 1 bands of bits: only those that share a band are compared.
    """
    known = hashes != NO_HASH
    code = np.full(len(hashes), -1)
    if not known.any():
        return Relation(code)
    own, member = np.unique(hashes_of_rotations(hashes[known]).min(axis=0), return_inverse=True)
    code[known] = member
    versions = hashes_of_rotations(own)
    edges = np.linspace(1, 64, bits + 2).round().astype(int)  # bit 0 is the same in all
    found = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mask = np.uint64((1 << high) - (1 << low))
        keys = own & mask
        order = np.argsort(keys, kind="stable")
        for version in versions:
            found.append(_close(own, order, keys[order], version, version & mask, bits))
    return Relation(code, np.unique(np.concatenate(found), axis=0))


def _close(
    own: np.ndarray, order: np.ndarray, keys: np.ndarray, version: np.ndarray, wanted: np.ndarray, bits: int
) -> np.ndarray:
    # pairs (k, 2) of places, the smaller first: those of `own` in a version's band, at most `bits` away from it
    first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    many = last - first
    found, start, ends = [np.empty((0, 2), np.int64)], 0, np.cumsum(many)
    while start < len(many):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _BLOCK)))
        some = many[start:stop]
        b = np.repeat(np.arange(start, stop), some)
        within = np.arange(len(b)) - np.repeat(np.cumsum(some) - some, some)
        a = order[np.repeat(first[start:stop], some) + within]
        near = (a != b) & (np.bitwise_count(own[a] ^ version[b]) <= bits)
        found.append(np.unique(np.sort(np.column_stack([a[near], b[near]]), axis=1), axis=0))
        start = stop
    return np.concatenate(found)


def _equal(keys: np.ndarray, known: np.ndarray | None = None) -> Relation:
    code = np.unique(keys, return_inverse=True)[1].ravel().astype(np.int64)
    return Relation(code if known is None else np.where(known, code, -1))


def _one(hashes: np.ndarray) -> np.ndarray:
    # (n, 2) uint64 as one value each that can be sorted and compared
    return np.ascontiguousarray(hashes).view([("a", np.uint64), ("b", np.uint64)]).ravel()


# ---- who has relatives, and who has them on the other side


def has_relative(who: PatchIdentity, kind: str, relation: Relation) -> np.ndarray:
    """Rows (n,) bool that have a relative of a kind; copies of one patch, and in `rotated` duplicates, are none."""
    own = np.arange(len(who))
    if kind in PIXELS and who.parent is not None:
        own = who.parent
    elif kind == "rotated" and who.content is not None:
        own = _equal(_one(who.content)).code
    return has_relative_among(relation, own, np.ones(len(who), bool))


def leaked_rows(
    who: PatchIdentity, related: Mapping[str, Relation], split: np.ndarray, held: int, seen: int
) -> dict[str, np.ndarray]:
    """Rows of split `held` that have a relative in split `seen`, by kind, and of `any` kind; split (n,) uint8.

    related: `relations(who)`. Copies of one patch count as such, not under PIXELS once more; `rotated` leaves out rows
    that have an exact duplicate there.
    """
    own = np.arange(len(who)) if who.parent is None else who.parent
    found = {}
    for kind, relation in related.items():
        apart = own if kind in PIXELS else np.arange(len(who))
        found[kind] = np.flatnonzero((split == held) & has_relative_among(relation, apart, split == seen))
    if "rotated" in found:
        found["rotated"] = np.setdiff1d(found["rotated"], found["duplicate"])
    rows = [r for r in found.values() if len(r)]
    return found | {"any": np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)}


def has_relative_among(relation: Relation, own: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rows (n,) bool that are related to a seen row with another `own` than theirs."""
    code, known = relation.code, relation.code >= 0
    there = np.unique(np.column_stack([code, own])[seen & known], axis=0)
    many = np.bincount(there[:, 0], minlength=code.max(initial=-1) + 1)  # different ones behind each code
    keys = code.astype(np.int64) * (int(own.max(initial=0)) + 1) + own
    mine = np.isin(keys, there[:, 0] * (int(own.max(initial=0)) + 1) + there[:, 1])
    same = known & (many[code] > mine)
    both = np.concatenate([relation.pairs, relation.pairs[:, ::-1]])
    return same | (known & np.isin(code, both[many[both[:, 1]] > 0, 0]))
