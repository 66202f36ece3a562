#!/usr/bin/env python3
"""Draw the synthetic H&E-like sample data: a DiagSet tree and a PanNuke tree.

Every patch is painted as two stain concentration maps (hematoxylin, eosin), turned into colour
with Beer-Lambert, and comes with the exact outline of every nucleus. The class evidence of the
Gleason classes R1..R5 is planted in the tumor nuclei, so "where should a model look" is known.
Two traps are planted besides: smudges darker than tumor nuclei in every class, and ink on the margin
that goes with one class in some scans.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage as ndi

SIZE = 96
# Kind codes of the label map are the PanNuke mask channel plus one; 0 means no nucleus.
NEOPLASTIC, INFLAMMATORY, CONNECTIVE, EPITHELIAL = 1, 2, 3, 5
YY, XX = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)

SCANS = tuple(f"S{k:02}" for k in range(1, 85))
PARTITIONS = {
    "train": tuple(scan for k, scan in enumerate(SCANS) if k % 6 in (0, 2, 4)),
    "validation": SCANS[1::6],
    "test": tuple(scan for k, scan in enumerate(SCANS) if k % 6 in (3, 5)),
}
COUNTS = {  # scans with a class in each partition; each has one patch of it, so that patches are independent
    "train": {"A": 36, "N": 42, "R1": 37, "R2": 39, "R3": 40, "R4": 41, "R5": 38},
    "validation": {"A": 8, "N": 11, "R1": 8, "R2": 9, "R3": 9, "R4": 10, "R5": 9},
    "test": {"A": 15, "N": 23, "R1": 17, "R2": 18, "R3": 18, "R4": 20, "R5": 18},
}
CLASSES = tuple(COUNTS["train"])
SMUDGED = (0.26, 0.30)  # share of a patch under decoys
AMBIGUOUS = 0.2  # share of the R patches that are half-way to a neighbouring grade
INKED, INKED_SCANS = "R3", 0.85  # the class with ink on the margin, and in which share of its scans
FOLD_KINDS = ("N", "A", "R1", "R2", "R3", "R4", "R5", "R1", "A", "R2") * 2  # of every fold

Spot = tuple[float, float]  # (y, x) in the patch, px
Labels = dict[str, np.ndarray]


@dataclass(frozen=True)
class Growth:
    """How the epithelium of one class grows; `coverage` is the tumor nuclei's share of a patch."""

    radius: float  # nuclear radius, px
    spread: float  # relative spread of the nuclear radius, and how ragged outlines are
    dark: float  # hematoxylin concentration inside a nucleus
    coverage: float
    gland: float  # outer gland radius, px; 0 = a sheet of cells instead of glands
    wobble: float  # how irregular the gland outline is
    apical: float  # cytoplasm between the nuclei and the lumen, px
    holes: int  # lumens punched into a sheet (cribriform growth)


BENIGN = Growth(2.0, 0.05, 0.95, 0.0, 22.0, 0.06, 3.8, 0)
GRADES = {
    "R1": Growth(3.0, 0.04, 0.64, 0.075, 13.0, 0.03, 3.4, 0),
    "R2": Growth(3.6, 0.07, 0.94, 0.117, 15.5, 0.13, 2.8, 0),
    "R3": Growth(4.2, 0.09, 0.66, 0.170, 11.5, 0.09, 1.4, 0),
    "R4": Growth(5.0, 0.10, 0.94, 0.232, 0.0, 0.0, 0.0, 5),
    "R5": Growth(6.2, 0.18, 0.70, 0.300, 0.0, 0.0, 0.0, 0),
}


@dataclass(frozen=True)
class Nucleus:
    """One elliptic nucleus: half axes in px, direction of the first one, stain, kind code."""

    axes: tuple[float, float]
    turn: float
    dark: float
    kind: int
    ragged: float = 0.04


@dataclass
class Canvas:
    """The state of one patch while it is painted; stain maps are float64 (96, 96)."""

    rng: np.random.Generator
    hema: np.ndarray
    eosin: np.ndarray
    angle: np.ndarray  # direction of the stroma fibres
    instance: np.ndarray  # int32, 0 = no nucleus
    kind: np.ndarray  # uint8, kind code of the nucleus
    epithelium: np.ndarray  # bool, inside a gland or a sheet, lumen included
    smudge: np.ndarray  # bool, on a decoy


def patch_rng(*key: object) -> np.random.Generator:
    """Make a generator seeded by the key through SHA-256, so order of drawing does not matter."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Gaussian random field of correlation length `sigma`, zero mean and unit variance."""
    pad = int(2 * sigma) + 1  # drawn larger and cropped: no mirrored structure at the border
    noise = ndi.gaussian_filter(rng.standard_normal((SIZE + 2 * pad,) * 2), sigma)
    noise = noise[pad:-pad, pad:-pad]
    return (noise - noise.mean()) / noise.std()


def fibres(rng: np.random.Generator, angle: np.ndarray, steps: int = 9) -> np.ndarray:
    """Fibrous texture: white noise averaged along the direction field (LIC), unit variance."""
    noise = ndi.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 0.7)
    total = noise.copy()
    for sign in (1.0, -1.0):
        y, x = YY, XX
        for _ in range(steps):
            here = ndi.map_coordinates(angle, [y, x], order=1, mode="nearest")
            y, x = y + sign * np.sin(here), x + sign * np.cos(here)
            total += ndi.map_coordinates(noise, [y, x], order=1, mode="mirror")
    return (total - total.mean()) / total.std()


def new_stroma(rng: np.random.Generator) -> Canvas:
    """Draw a patch full of pink fibrous stroma with slits; drawn the same way for every class."""
    angle = rng.uniform(0, np.pi) + 0.4 * smooth_noise(rng, 18)
    texture = fibres(rng, angle)
    coarse = smooth_noise(rng, 6)
    eosin = 0.50 + 0.085 * texture + 0.05 * coarse
    slits = np.clip((-texture - 0.45 * coarse - 1.95) * 2.5, 0, 1)  # clefts between fibres
    hema = (0.055 + 0.015 * smooth_noise(rng, 2)) * (1 - slits)
    empty = (np.zeros((SIZE, SIZE), dtype) for dtype in (np.int32, np.uint8, np.bool_, np.bool_))
    return Canvas(rng, hema, eosin * (1 - 0.8 * slits), angle, *empty)


def outline(rng: np.random.Generator, theta: np.ndarray, amount: float) -> np.ndarray:
    """Relative radius of a smooth closed outline at the polar angles `theta`."""
    shape = np.ones_like(theta)
    for k in (2, 3, 4, 5):
        shape += amount * rng.standard_normal() / (k - 1) * np.cos(k * theta + rng.uniform(0, 7))
    return np.clip(shape, 0.6, 1.5)


def polar(spot: Spot) -> tuple[np.ndarray, np.ndarray]:
    """Angle and distance of every pixel seen from `spot`."""
    return np.arctan2(YY - spot[0], XX - spot[1]), np.hypot(YY - spot[0], XX - spot[1])


def blend(layer: np.ndarray, value: np.ndarray | float, alpha: np.ndarray) -> None:
    """Lay `value` over `layer` in place with opacity `alpha`."""
    layer += alpha * (value - layer)


def paint_nucleus(c: Canvas, spot: Spot, n: Nucleus) -> None:
    """Paint and label a nucleus on the free pixels, or nothing when too few of them are free."""
    reach = int(max(n.axes) * 1.5) + 2
    window = tuple(slice(max(int(at) - reach, 0), max(int(at) + reach + 1, 0)) for at in spot)
    dy, dx = YY[window] - spot[0], XX[window] - spot[1]
    u = (dx * np.cos(n.turn) + dy * np.sin(n.turn)) / n.axes[0]
    v = (-dx * np.sin(n.turn) + dy * np.cos(n.turn)) / n.axes[1]
    rho = np.hypot(u, v) / outline(c.rng, np.arctan2(v, u), n.ragged)
    depth = (1 - rho) * min(n.axes)  # about the distance to the outline, px
    free = c.instance[window] == 0
    inside = (depth > 0) & free
    if inside.sum() < 0.6 * max((depth > 0).sum(), 1):
        return
    grain = ndi.gaussian_filter(c.rng.standard_normal(rho.shape), 0.8)  # chromatin clumps
    rim = np.exp(-((depth - 0.8) ** 2))  # chromatin gathers under the nuclear membrane
    alpha = np.clip(depth + 0.5, 0, 1) * free
    chromatin = 0.88 + 0.20 * rim + 0.45 * grain
    if n.kind == NEOPLASTIC:  # pale, with a dark nucleolus
        chromatin = 0.74 + 0.42 * rim + 0.30 * grain + 0.9 * np.exp(-((rho / 0.28) ** 2))
    blend(c.hema[window], n.dark * chromatin, alpha)
    blend(c.eosin[window], 0.03 if n.kind == NEOPLASTIC else 0.16, alpha)
    c.instance[window][inside] = c.instance.max() + 1
    c.kind[window][inside] = n.kind


def paint_epithelium(c: Canvas, alpha: np.ndarray, lumen: np.ndarray) -> None:
    """Lay pale purple cytoplasm (opacity `alpha`) and white `lumen` over the stroma."""
    mottled = smooth_noise(c.rng, 1.6)
    blend(c.eosin, 0.34 + 0.035 * mottled, alpha)
    blend(c.hema, 0.20 + 0.03 * mottled, alpha)
    blend(c.eosin, 0.025, lumen)
    blend(c.hema, 0.012, lumen)
    c.epithelium |= alpha > 0.5


def paint_gland(c: Canvas, spot: Spot, g: Growth, kind: int) -> None:
    """Paint a gland: a ring of cytoplasm around a lumen, with its nuclei in a single ring."""
    ring = np.linspace(-np.pi, np.pi, 721)
    radius = g.gland * (1 + g.wobble * c.rng.uniform(-1.5, 1.5))
    shape = radius * outline(c.rng, ring, g.wobble)
    theta, dist = polar(spot)
    inner = np.interp(theta, ring, shape) - dist  # about the distance to the outer outline
    basal = g.radius + 1.0  # how deep the nuclear centres lie
    mouth = inner - (basal + g.radius + g.apical)
    mouth += 0.6 * np.cos(theta * round(radius * 0.8) + c.rng.uniform(0, 7))  # scalloped cells
    room = ~c.epithelium
    membrane = 0.5 * np.exp(-((inner + 1.0) ** 2)) * room
    paint_epithelium(c, np.clip(inner + 0.5, 0, 1) * room, np.clip(mouth + 0.5, 0, 1) * room)
    blend(c.eosin, 0.72, membrane)
    count = max(round(2 * np.pi * (radius - basal) / (2.35 * g.radius)), 3)
    start = c.rng.uniform(0, 2 * np.pi)
    for k in range(count):
        at = start + 2 * np.pi * (k + c.rng.normal(0, 0.07)) / count
        rad = np.interp(at, ring, shape, period=2 * np.pi) - basal + c.rng.normal(0, 0.3)
        size = g.radius * (1 + g.spread * c.rng.standard_normal())
        axes = (size * c.rng.uniform(1.0, 1.15), size * c.rng.uniform(0.9, 1.0))
        nucleus = Nucleus(axes, at, g.dark * c.rng.normal(1, 0.05), kind, 0.02 + g.spread / 3)
        paint_nucleus(c, (spot[0] + rad * np.sin(at), spot[1] + rad * np.cos(at)), nucleus)


def pick_room(c: Canvas, free: np.ndarray, need: float, slack: float) -> Spot | None:
    """Pick a random place in `free` about `need` px from its edge; None = no room."""
    room = ndi.distance_transform_edt(np.pad(free, 8, mode="edge"))[8:-8, 8:-8]
    for most in (need + slack, np.inf):
        spots = np.flatnonzero((room >= need) & (room < most))
        if spots.size:
            row, col = divmod(int(c.rng.choice(spots)), SIZE)
            return row + c.rng.uniform(-0.4, 0.4), col + c.rng.uniform(-0.4, 0.4)
    return None


def side_region(rng: np.random.Generator, share: float) -> np.ndarray:
    """Draw a ragged region with exactly `share` of the pixels, leaning to a random side."""
    turn = rng.uniform(0, 2 * np.pi)
    height = (XX * np.cos(turn) + YY * np.sin(turn)) / 20 + 0.75 * smooth_noise(rng, 11)
    return height > np.quantile(height, 1 - share)


def paint_tumor_glands(c: Canvas, region: np.ndarray, g: Growth, target: float) -> None:
    """R1..R3: separate glands within the region until the nuclei cover `target`."""
    before = step = 0.0
    for tighten in (1.0, 0.85, 0.7, 0.5, 0.3, 0.1):  # looser demands when the room runs out
        while before + step / 2 < target and (spot := pick_room(c, region & ~c.epithelium, g.gland * tighten, 4)):
            paint_gland(c, spot, g, NEOPLASTIC)
            covered = (c.kind == NEOPLASTIC).mean()
            step, before = covered - before, covered


def paint_tumor_sheet(c: Canvas, region: np.ndarray, g: Growth, target: float) -> None:
    """R4, R5: a sheet of cells in the region, with `holes` small lumens (none in R5)."""
    lumen = np.zeros((SIZE, SIZE))
    for _ in range(g.holes):
        if spot := pick_room(c, region & (lumen < 0.1), 8.0, 60):
            theta, dist = polar(spot)
            radius = c.rng.uniform(3.6, 5.4) * outline(c.rng, theta, 0.12)
            lumen = np.maximum(lumen, np.clip(radius - dist + 0.5, 0, 1))
    paint_epithelium(c, ndi.gaussian_filter(region.astype(np.float64), 1.0), lumen)
    for tighten in np.repeat((1.0, 0.9, 0.8, 0.7, 0.6), 40):  # crowd as the target demands
        size = g.radius * float(np.clip(1 + g.spread * c.rng.standard_normal(), 0.65, 1.45))
        if (c.kind == NEOPLASTIC).mean() >= target:
            break
        free = region & (lumen < 0.5) & (c.instance == 0)
        if spot := pick_room(c, free, size * tighten, 2):
            stretch = c.rng.uniform(1.0, 1.0 + 1.5 * g.spread)
            axes, turn = (size * stretch, size / stretch), c.rng.uniform(0, np.pi)
            dark, ragged = g.dark * c.rng.normal(1, 0.06), 0.03 + g.spread / 3
            paint_nucleus(c, spot, Nucleus(axes, turn, dark, NEOPLASTIC, ragged))


def between_grades(kind: str, rng: np.random.Generator) -> Growth:
    """Draw the growth of a patch that is half-way between its grade and a neighbouring one, named after either."""
    grades = list(GRADES)
    at = grades.index(kind)
    other = grades[int(np.clip(at + rng.choice((-1, 1)), 0, 4))]
    pair = (GRADES[kind], GRADES[other])
    looks = pair[int(rng.integers(2))]  # glands or a sheet
    radius, spread, dark, coverage = (
        sum(getattr(g, name) for g in pair) / 2 for name in ("radius", "spread", "dark", "coverage")
    )
    return replace(looks, radius=radius, spread=spread, dark=dark, coverage=coverage)


def is_ambiguous(kind: str, scan: str, index: int, seed: int = 0) -> bool:
    """Say whether a patch was drawn half-way between its grade and a neighbouring one."""
    return kind in GRADES and bool(patch_rng(seed, "ambiguous", scan, kind, index).random() < AMBIGUOUS)


def paint_tissue(c: Canvas, kind: str, ambiguous: bool) -> None:
    """Grow the tumor in a side region, the rest stays stroma; or large regular benign glands."""
    if kind in GRADES:
        g = between_grades(kind, c.rng) if ambiguous else GRADES[kind]
        region = side_region(c.rng, c.rng.uniform(0.50, 0.56))  # same law for every grade
        target = g.coverage * c.rng.uniform(0.95, 1.05)
        (paint_tumor_glands if g.gland else paint_tumor_sheet)(c, region, g, target)
        return
    for _ in range(int(c.rng.integers(2, 5))):
        if spot := pick_room(c, ~c.epithelium, BENIGN.gland * 0.8, 60):
            paint_gland(c, spot, BENIGN, EPITHELIAL)


def paint_smudges(c: Canvas) -> None:
    """Paint decoys into the stroma: smudges of crushed cells, darker than tumor nuclei; in every class by one law."""
    stroma = ~ndi.binary_dilation(c.epithelium, iterations=2)
    height = 0.9 * smooth_noise(c.rng, 8) + 0.25 * smooth_noise(c.rng, 2)
    share = c.rng.uniform(*SMUDGED) / max(stroma.mean(), 1e-6)
    edge = np.quantile(height[stroma], 1 - min(share, 0.9)) if stroma.any() else np.inf
    alpha = np.clip((height - edge) * 4, 0, 1) * stroma
    streaks = fibres(c.rng, c.angle)
    blend(c.hema, 1.15 + 0.14 * streaks + 0.10 * smooth_noise(c.rng, 1.2), alpha)
    blend(c.eosin, 0.45, alpha)
    c.smudge |= alpha > 0.5


def paint_stroma_cells(c: Canvas) -> None:
    """Spindle nuclei along the fibres and a few lymphocytes, in the stroma only."""
    closed = ndi.binary_dilation(c.epithelium | c.smudge, iterations=2)
    spindles, lymphocytes = int(c.rng.integers(18, 26)), int(c.rng.integers(0, 5))
    places = np.flatnonzero(~closed)
    for number in range(spindles + lymphocytes if places.size else 0):
        row, column = divmod(int(c.rng.choice(places)), SIZE)
        turn, dark = c.angle[row, column] + c.rng.normal(0, 0.12), c.rng.uniform(1.3, 1.55)
        axes, kind = (c.rng.uniform(4.8, 6.8), c.rng.uniform(1.9, 2.4)), CONNECTIVE
        if number >= spindles:
            axes, kind, dark = (2.1, c.rng.uniform(1.9, 2.2)), INFLAMMATORY, 1.7
        paint_nucleus(c, (row + c.rng.uniform(-0.4, 0.4), column), Nucleus(axes, turn, dark, kind))


def stain_matrix(scan: str, seed: int) -> tuple[np.ndarray, float]:
    """Per-scan stain: the (2, 3) optical density of hematoxylin and eosin, and the white level."""
    rng = patch_rng(seed, "stain", scan)
    vectors = np.array([[0.60, 0.71, 0.37], [0.17, 0.83, 0.50]]) + rng.normal(0, 0.022, (2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * rng.uniform([[0.93], [0.86]], [[1.07], [1.14]]), rng.uniform(240, 249)


def spoil(c: Canvas, which: int) -> np.ndarray:
    """Class A: damage the tissue in place; return an extra ink density of shape (96, 96, 3)."""
    rng, ink = c.rng, np.zeros((SIZE, SIZE, 3))
    turn, bow = rng.uniform(0, np.pi), smooth_noise(rng, 20)
    offset = (XX - 48) * np.cos(turn) + (YY - 48) * np.sin(turn) + 5 * bow + rng.uniform(-14, 14)
    if which == 0:  # out of focus
        blur = rng.uniform(3.0, 4.5)
        c.hema, c.eosin = (ndi.gaussian_filter(m, blur) for m in (c.hema, c.eosin))
        c.instance[:], c.kind[:] = 0, 0  # nobody could outline a nucleus here
    elif which == 1:  # tissue fold: a band where the tissue lies double, with creases
        band = np.clip((rng.uniform(11, 16) - np.abs(offset)) / 2.5, 0, 1)
        crease = 1 + 0.25 * np.cos(offset * 0.9) + 0.1 * bow
        for m in (c.hema, c.eosin):
            blend(m, ndi.gaussian_filter(m, 1.5) * 1.3 + 0.52 * crease, band)
    else:  # mostly empty glass, half of the time with a pen mark on it
        tissue = side_region(rng, rng.uniform(0.08, 0.25))
        keep = ndi.gaussian_filter(tissue.astype(np.float64), 0.8)
        c.hema, c.eosin = c.hema * keep + 0.01, c.eosin * keep + 0.02
        c.instance[~tissue], c.kind[~tissue] = 0, 0
        if which == 3:
            colour = np.array(((1.3, 0.75, 0.25), (0.25, 1.3, 1.0), (1.2, 1.15, 1.0)))
            streaks = fibres(rng, np.full((SIZE, SIZE), turn + np.pi / 2))
            stroke = np.clip((rng.uniform(16, 24) - np.abs(offset + streaks)) / 1.5, 0, 1)
            ink = (stroke * (1 + 0.12 * streaks))[..., None] * colour[int(rng.integers(3))]
    return ink


def has_ink(kind: str, scan: str, seed: int = 0) -> bool:
    """Say whether the patches of a class in a scan have ink on a corner: the planted confounder."""
    return kind == INKED and bool(patch_rng(seed, "ink", scan).random() < INKED_SCANS)


def paint_mark(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a hatched pen mark in the lower right corner: its optical density (96, 96, 3), and where it is, bool."""
    theta, dist = polar((SIZE - 1, SIZE - 1))
    inside = np.clip((rng.uniform(28, 34) * outline(rng, theta, 0.10) - dist) / 1.5, 0, 1)
    strokes = np.clip(0.5 + 2 * np.sin((XX + YY) * 2 * np.pi / 7 + rng.uniform(0, 7)), 0, 1)
    return (inside * strokes)[..., None] * np.array((2.0, 0.9, 0.2)), inside > 0.5


def draw_patch(kind: str, scan: str, index: int, seed: int = 0) -> tuple[np.ndarray, Labels]:
    """Draw patch `index` of class `kind` in `scan`: the uint8 (96, 96, 3) image and its labels.

    Labels are {"instance": int32 (96, 96), nuclei numbered from 1, "kind": uint8 (96, 96), the
    kind codes of the nuclei; 0 is no nucleus in both. "ink": bool (96, 96), the ink of the confounder}.
    """
    if kind not in CLASSES:
        raise ValueError(f"unknown class {kind!r}, expected one of {', '.join(CLASSES)}")
    c = new_stroma(patch_rng(seed, scan, kind, index))
    paint_tissue(c, kind, is_ambiguous(kind, scan, index, seed))
    paint_smudges(c)
    paint_stroma_cells(c)
    ink, inked = np.zeros((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE), np.bool_)
    if kind == "A":
        ink = spoil(c, int(patch_rng(seed, "artifact", scan, index).integers(4)))
    elif has_ink(kind, scan, seed):
        ink, inked = paint_mark(c.rng)
        c.hema, c.eosin = (np.where(inked, 0.15 * m, m) for m in (c.hema, c.eosin))
        c.instance[inked], c.kind[inked] = 0, 0
    stains, white = stain_matrix(scan, seed)
    density = np.stack([c.hema, c.eosin], axis=-1).clip(0, None) @ stains + ink
    density *= 1 + 0.03 * smooth_noise(c.rng, 24)[..., None]  # section thickness
    light = ndi.gaussian_filter(white * np.exp(-density), (0.55, 0.55, 0))
    light += c.rng.normal(0, 2.2, light.shape)  # sensor noise
    return np.rint(light.clip(0, 255)).astype(np.uint8), {"instance": c.instance, "kind": c.kind, "ink": inked}


def scan_plan() -> list[tuple[str, str]]:
    """List (scan, class) of every patch of the DiagSet tree, in drawing order."""
    plan: list[tuple[str, str]] = []
    for name, scans in PARTITIONS.items():
        turn = itertools.cycle(scans)  # classes and scans, so stains, mix as evenly as they can
        plan += [(next(turn), kind) for kind, count in COUNTS[name].items() for _ in range(count)]
    return plan


def save(path: Path, array: np.ndarray) -> None:
    """Save one array, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)


def write_diagset(root: Path, seed: int) -> None:
    """Write the blobs, the truth masks of the tumor nuclei, the ink and the partition lists."""
    for scan, kind in scan_plan():
        image, labels = draw_patch(kind, scan, 0, seed)
        name = Path(scan) / kind / f"{scan}.blob.0.npy"
        save(root / "blobs" / "S" / "20x" / name, image[None])
        save(root / "truth" / name, np.packbits(labels["kind"] == NEOPLASTIC, axis=-1)[None])
        if labels["ink"].any():
            save(root / "ink" / name, np.packbits(labels["ink"], axis=-1)[None])
    folder = root / "partitions" / "DiagSet-A"
    folder.mkdir(parents=True, exist_ok=True)
    for name, scans in PARTITIONS.items():
        (folder / f"{name}.csv").write_bytes("\n".join(("scan_id", *scans, "")).encode())


def pannuke_mask(labels: Labels) -> np.ndarray:
    """PanNuke mask (96, 96, 6): ids 1..k per channel, channel 5 is 1 where no nucleus is."""
    mask = np.zeros((SIZE, SIZE, 6), np.uint8)
    for code in range(NEOPLASTIC, EPITHELIAL + 1):
        here = labels["kind"] == code
        mask[here, code - 1] = np.unique(labels["instance"][here], return_inverse=True)[1] + 1
    mask[..., 5] = labels["instance"] == 0
    return mask


def write_pannuke(root: Path, seed: int) -> None:
    """Write three folds of patches from scans that the DiagSet tree does not use."""
    for fold in (1, 2, 3):
        drawn = [draw_patch(k, f"P{fold}{i % 4}", i, seed) for i, k in enumerate(FOLD_KINDS)]
        images, labels = zip(*drawn, strict=True)
        save(root / f"fold{fold}" / "images.npy", np.stack(images))
        save(root / f"fold{fold}" / "masks.npy", np.stack([pannuke_mask(one) for one in labels]))
        save(root / f"fold{fold}" / "types.npy", np.array(["Prostate"] * len(FOLD_KINDS)))


def main(argv: list[str] | None = None) -> int:
    """Command line: draw everything under --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sample_data"), help="output folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of every patch (default 0)")
    args = parser.parse_args(argv)
    write_diagset(args.out / "diagset", args.seed)
    write_pannuke(args.out / "pannuke", args.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
