"""Find related patches: a split that separates them leaks.

Kinds of relations: `scan` and `patient`, the same one where known (`site` on request); `copy`, rotated copies that
`augment` made of one patch; `duplicate`, all pixels equal; `rotated`, equal after a rotation or mirroring; `overlap`,
tiles of one slide that share an area; `near`, perceptual hashes that differ in few bits, on request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from histoxai.ingest.hashes import NO_HASH, hashes_of_rotations

# Kinds that compare pixels or areas, in which copies of one patch do not count: they are `copy`.
PIXEL_KINDS = ("duplicate", "rotated", "overlap", "near")
_BLOCK = 1 << 22  # pairs of hashes that are compared at once


@dataclass(frozen=True)
class TilePositions:
    """Positions of n tiles in px.

    frame (n,) str: a slide, "" for unknown. x, y (n,): upper-left corner. width, height (n,).
    """

    frame: np.ndarray
    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    height: np.ndarray


@dataclass(frozen=True)
class PatchIdentity:
    """The identity of n patches; None for what a store does not have.

    groups: names (n,) str by kind (`scan`, `patient`, ...), "" where unknown. parent (n,): equal for copies of one
    patch. content, orbit (n, 2) uint64: hashes of the pixels, as they are and in any rotation. perceptual (n,) uint64.
    """

    groups: Mapping[str, np.ndarray]
    parent: np.ndarray | None = None
    content: np.ndarray | None = None
    orbit: np.ndarray | None = None
    perceptual: np.ndarray | None = None
    positions: TilePositions | None = None

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))


@dataclass(frozen=True)
class Relation:
    """One kind of relation among n patches.

    code (n,) int64: patches with the same code are related; -1 is related to none. pairs (k, 2): codes that are related
    too. Pairs are not transitive: of three tiles in a row the outer two share nothing.
    """

    code: np.ndarray
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def edges(self) -> np.ndarray:
        """Return pairs of rows (k, 2) that connect all related rows, directly or through others."""
        rows = np.flatnonzero(self.code >= 0)
        order = rows[np.argsort(self.code[rows], kind="stable")]
        same = self.code[order][1:] == self.code[order][:-1]
        first = np.full(self.code.max(initial=-1) + 1, -1)
        first[self.code[order][::-1]] = order[::-1]
        chains = np.column_stack([order[:-1][same], order[1:][same]])
        return np.concatenate([chains, first[self.pairs]]).astype(np.int64)


def relations(identity: PatchIdentity, near: int | None = None) -> dict[str, Relation]:
    """Return the relation of each kind that is known.

    near: largest number of bits in which perceptual hashes of near duplicates differ; None to leave them out. `rotated`
    relates all patches of one orbit, and so exact duplicates too.
    """
    related = {kind: _same_value(names, names != "") for kind, names in identity.groups.items()}
    if identity.parent is not None:
        related["copy"] = _same_value(identity.parent)
    if identity.content is not None and identity.orbit is not None:
        related["duplicate"] = _same_hash(identity.content)
        related["rotated"] = _same_hash(identity.orbit)
    if identity.positions is not None:
        related["overlap"] = overlapping_tiles(identity.positions)
    if near is not None and identity.perceptual is not None:
        related["near"] = near_pairs(identity.perceptual, near)
    return related


def connected_components_of(n: int, related: Mapping[str, Relation]) -> np.ndarray:
    """Return the connected component (n,) of each row over all relations, numbered by first row."""
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(r.edges() for r in related.values())])
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    components = connected_components(graph, directed=False)[1]
    _, first, member = np.unique(components, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member]


def overlapping_tiles(tiles: TilePositions) -> Relation:
    """Relate tiles of one frame that share more than an edge; tiles at the same position have one code."""
    known = np.flatnonzero(tiles.frame != "")
    _, frame = np.unique(tiles.frame[known], return_inverse=True)
    corner = np.column_stack([tiles.x[known], tiles.y[known]]).astype(np.float64)
    size = np.column_stack([tiles.width[known], tiles.height[known]]).astype(np.float64)
    distinct, member = np.unique(np.column_stack([frame, corner, size]), axis=0, return_inverse=True)
    code = np.full(len(tiles.frame), -1)
    code[known] = member.ravel()
    pairs = [np.empty((0, 2), np.int64)]
    frame_starts = np.flatnonzero(np.diff(distinct[:, 0])) + 1
    for rows in np.split(np.arange(len(distinct)), frame_starts):
        low, extent = distinct[rows, 1:3], distinct[rows, 3:5]
        close = cKDTree(low).query_pairs(extent.max(initial=0), p=np.inf, output_type="ndarray").astype(np.int64)
        a, b = close[:, 0], close[:, 1]
        begin, end = np.maximum(low[a], low[b]), np.minimum(low[a] + extent[a], low[b] + extent[b])
        pairs.append(rows[close[(end > begin).all(axis=1)]])
    return Relation(code, np.concatenate(pairs))


def near_pairs(hashes: np.ndarray, bits: int) -> Relation:
    """Relate rows whose perceptual hashes differ in at most `bits`, for any rotation or mirroring of one of them.

    Each distinct hash is compared once, as the least of its eight versions. Two hashes that differ in r bits agree on
    at least one of r + 1 bands of bits, so that only hashes that share a band are compared.
    """
    known = hashes != NO_HASH
    code = np.full(len(hashes), -1)
    if not known.any():
        return Relation(code)
    distinct, member = np.unique(hashes_of_rotations(hashes[known]).min(axis=0), return_inverse=True)
    code[known] = member
    versions = hashes_of_rotations(distinct)
    edges = np.linspace(1, 64, bits + 2).round().astype(int)  # bit 0 is the same in all hashes
    pairs = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = _Band(distinct, np.uint64((1 << high) - (1 << low)))
        pairs += [band.close_pairs(version, bits) for version in versions]
    return Relation(code, np.unique(np.concatenate(pairs), axis=0))


class _Band:
    """Hashes (m,) sorted by the bits of one band, `mask`."""

    def __init__(self, hashes: np.ndarray, mask: np.uint64) -> None:
        self._hashes, self._mask = hashes, mask
        keys = hashes & mask
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def close_pairs(self, version: np.ndarray, bits: int) -> np.ndarray:
        """Return pairs (k, 2) of rows, the smaller first, that share the band and differ in at most `bits`.

        version (m,): the hashes in one rotation, with which the hashes are compared.
        """
        hashes, band = self._hashes, version & self._mask
        first, last = np.searchsorted(self._keys, band, "left"), np.searchsorted(self._keys, band, "right")
        counts = last - first
        pairs, start, ends = [np.empty((0, 2), np.int64)], 0, np.cumsum(counts)
        while start < len(counts):
            stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _BLOCK)))
            some = counts[start:stop]
            b = np.repeat(np.arange(start, stop), some)
            within = np.arange(len(b)) - np.repeat(np.cumsum(some) - some, some)
            a = self._order[np.repeat(first[start:stop], some) + within]
            close = (a != b) & (np.bitwise_count(hashes[a] ^ version[b]) <= bits)
            pairs.append(np.unique(np.sort(np.column_stack([a[close], b[close]]), axis=1), axis=0))
            start = stop
        return np.concatenate(pairs)


def _same_value(values: np.ndarray, known: np.ndarray | None = None) -> Relation:
    code = np.unique(values, return_inverse=True)[1].ravel().astype(np.int64)
    return Relation(code if known is None else np.where(known, code, -1))


def _same_hash(hashes: np.ndarray) -> Relation:
    return _same_value(_single_values(hashes), np.any(hashes, axis=1))  # a hash of 0 is none


def _single_values(hashes: np.ndarray) -> np.ndarray:
    """View hashes (n, 2) uint64 as (n,) values that can be sorted and compared."""
    return np.ascontiguousarray(hashes).view([("a", np.uint64), ("b", np.uint64)]).ravel()


def has_relative(identity: PatchIdentity, kind: str, relation: Relation) -> np.ndarray:
    """Return the rows (n,) bool with a relative of a kind.

    Copies of one patch do not count, and exact duplicates do not count as `rotated`.
    """
    unit = np.arange(len(identity))
    if kind in PIXEL_KINDS and identity.parent is not None:
        unit = identity.parent
    elif kind == "rotated" and identity.content is not None:
        unit = _same_value(_single_values(identity.content)).code
    return has_relative_among(relation, unit, np.ones(len(identity), bool))


def leaked_rows(
    identity: PatchIdentity, related: Mapping[str, Relation], split: np.ndarray, held_out: int, seen: int
) -> dict[str, np.ndarray]:
    """Return the rows of split `held_out` that have a relative in split `seen`, by kind, and of `any` kind.

    related: `relations(identity)`; split (n,) uint8. Copies of one patch count as `copy` alone, not under PIXEL_KINDS
    once more. `rotated` leaves out rows that have an exact duplicate there.
    """
    unit = np.arange(len(identity)) if identity.parent is None else identity.parent
    rows = {}
    for kind, relation in related.items():
        own = unit if kind in PIXEL_KINDS else np.arange(len(identity))
        rows[kind] = np.flatnonzero((split == held_out) & has_relative_among(relation, own, split == seen))
    if "rotated" in rows:
        rows["rotated"] = np.setdiff1d(rows["rotated"], rows["duplicate"])
    leaking = [r for r in rows.values() if len(r)]
    return rows | {"any": np.unique(np.concatenate(leaking)) if leaking else np.empty(0, np.int64)}


def has_relative_among(relation: Relation, unit: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the rows (n,) bool that are related to a row in `seen` (n,) bool of another `unit` (n,) than their own."""
    code, known = relation.code, relation.code >= 0
    seen_units = np.unique(np.column_stack([code, unit])[seen & known], axis=0)
    counts = np.bincount(seen_units[:, 0], minlength=code.max(initial=-1) + 1)  # of seen units with each code
    factor = int(unit.max(initial=0)) + 1
    own_is_seen = np.isin(code.astype(np.int64) * factor + unit, seen_units[:, 0] * factor + seen_units[:, 1])
    same = known & (counts[code] > own_is_seen)
    both = np.concatenate([relation.pairs, relation.pairs[:, ::-1]])
    return same | (known & np.isin(code, both[counts[both[:, 1]] > 0, 0]))
