"""Patches that a report's page can show layer by layer: which ones, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from histoxai.core.errors import UsageError
from histoxai.core.progress import Progress
from histoxai.core.provenance import keyed_seed
from histoxai.report.lineage import Lineage
from histoxai.report.page.payload import jpeg, packed
from histoxai.score.threshold_curves import levels
from histoxai.statistics.ranks import centred_ranks, rank_correlation

SIDE = 128  # pixels of signed evidence, at most: it is there to be looked at, and noise does not compress
AGREEING = 200  # patches whose maps are compared with each other


def chosen(
    cases: Sequence[Sequence[int | None]],
    asked: Sequence[int],
    values: np.ndarray,
    label: np.ndarray,
    patch_id: np.ndarray,
    most: int,
) -> list[int]:
    """Which patches get pictures, the most wanted first: at most `most`, and those asked for.

    cases: the study's. values (n, methods): what ranks them, NaN undefined. After the cases come, of each class in
    turn, the best (by the mean of methods), the worst, the one on which methods are furthest apart, and one at random.
    """
    known = np.isfinite(values)
    counted = known.sum(axis=1)
    mean = np.where(counted > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(counted, 1), np.nan)
    spread = np.where(known, values, -np.inf).max(axis=1) - np.where(known, values, np.inf).min(axis=1)
    spread = np.where(counted > 1, spread, np.nan)
    luck = np.array([keyed_seed(0, "examples", i) for i in patch_id.tolist()], np.float64)
    rounds: list[list[int]] = []
    for code in np.unique(label):
        mine = np.flatnonzero(label == code)
        for by, sign in ((mean, -1), (mean, 1), (spread, -1), (luck, 1)):
            there = mine[np.isfinite(by[mine])]
            rounds.append(there[np.argsort(sign * by[there], kind="stable")][:most].tolist())
    wanted = [i for row in cases for i in row if i is not None]
    for k in range(max((len(r) for r in rounds), default=0)):
        wanted += [r[k] for r in rounds if k < len(r)]
    first = list(dict.fromkeys(asked))
    rest = [i for i in dict.fromkeys(wanted) if i not in set(first)]
    return first + rest[: max(0, most - len(first))]


def asked_for(show: Sequence[str], patch_id: np.ndarray) -> list[int]:
    """Positions of patches by id.

    Raises UsageError for one that is not there.
    """
    place = {p: k for k, p in enumerate(patch_id.tolist())}
    if unknown := [p for p in show if p not in place]:
        raise UsageError(
            f"--show {unknown[0]}: no such patch among the scored ones, which `histoxai score --jsonl` lists"
        )
    return [place[p] for p in show]


def pictured(lineage: Lineage, rows: Sequence[int], budget: int, progress: Progress) -> list[dict[str, Any]]:
    """Pictures of some scored patches, as many as fit into `budget` characters.

    Each has `row` (its position), `image` (JPEG), `masks` (bit 0 tumor, bit 1 non-tumor), and by method, None where a
    map is not finite: `maps` (how many of the thresholds 0, 0.01, ... lie below each pixel, as scores count them) and
    `signed` (127 is nothing, 254 the most there is, which is `most`).
    """
    methods = lineage.scores.header["axes"]["method"]
    progress.start("patches", len(rows))
    made: list[dict[str, Any]] = []
    for row in rows:
        images, tumor, other = lineage.pictures([row])
        patch: dict[str, Any] = {
            "row": row,
            "image": jpeg(images[0]),
            "masks": packed(tumor[0].astype(np.uint8) | (other[0].astype(np.uint8) << 1)),
            "maps": [_levels(lineage.planes(name, [row])[0]) for name in methods],
            "signed": [_signed(lineage.signed(name, [row])[0]) for name in methods],
        }
        used = sum(len(text) for text in _texts(patch))
        if used > budget:
            break
        budget -= used
        made.append(patch)
        progress.advance()
    progress.stop()
    return made


def _texts(patch: dict[str, Any]) -> list[str]:
    planes = [m for m in patch["maps"] if m] + [s["plane"] for s in patch["signed"] if s]
    return [patch["image"], patch["masks"], *planes]


def _levels(plane: np.ndarray) -> str | None:
    if not np.isfinite(plane).all():
        return None
    return packed(levels(plane).astype(np.uint8).reshape(plane.shape))


def _signed(evidence: np.ndarray) -> dict[str, Any] | None:
    if not np.isfinite(evidence).all():
        return None
    step = -(-max(evidence.shape) // SIDE)
    height, width = (-(-n // step) for n in evidence.shape)
    wide = np.pad(
        evidence.astype(np.float64), [(0, n * step - m) for n, m in zip((height, width), evidence.shape, strict=True)]
    )
    small = wide.reshape(height, step, width, step).mean(axis=(1, 3))
    most = float(np.abs(small).max())
    scaled = np.round(127 + 127 * small / most) if most else np.full(small.shape, 127.0)
    return {"plane": packed(scaled.astype(np.uint8)), "size": [height, width], "most": f"{most:.3g}"}


def agreement(lineage: Lineage, patch_id: np.ndarray, progress: Progress) -> tuple[np.ndarray, int]:
    """Mean rank correlation (M, M) of the methods' relevance with each other, and over how many patches.

    At most AGREEING of them, drawn by their ids. NaN where no patch has two maps that are finite and not constant.
    """
    methods = lineage.scores.header["axes"]["method"]
    luck = np.array([keyed_seed(0, "agreement", i) for i in patch_id.tolist()], np.float64)
    rows = np.sort(np.argsort(luck, kind="stable")[:AGREEING])
    sums, counts = np.zeros((len(methods), len(methods))), np.zeros((len(methods), len(methods)))
    progress.start("agreement", len(rows))
    for row in rows:
        ranks = [centred_ranks(lineage.relevance(name, [row])[0]) for name in methods]
        for i, first in enumerate(ranks):
            for j, second in enumerate(ranks[: i + 1]):
                value = rank_correlation(first, second)
                if np.isfinite(value):
                    sums[[i, j], [j, i]] += value  # once where i is j
                    counts[[i, j], [j, i]] += 1
        progress.advance()
    progress.stop()
    with np.errstate(invalid="ignore"):
        return sums / counts, len(rows)
