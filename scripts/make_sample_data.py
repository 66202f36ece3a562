#!/usr/bin/env python3
"""Draw the synthetic H&E-like sample data: a DiagSet tree and a PanNuke tree.

Every patch is painted as two stain concentration maps (hematoxylin, eosin), turned into colour
with Beer-Lambert, and comes with the exact outline of every nucleus. The class evidence of the
Gleason classes R1..R5 is planted in the tumor nuclei, so "where should a model look" is known.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage as ndi

SIZE = 96
# Kind codes of the label map are the PanNuke mask channel plus one; 0 means no nucleus.
NEOPLASTIC, INFLAMMATORY, CONNECTIVE, EPITHELIAL = 1, 2, 3, 5
YY, XX = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)

PARTITIONS = {
    "train": ("S01", "S02", "S04", "S06", "S08", "S10", "S12", "S14", "S16"),
    "validation": ("S03", "S09", "S13", "S17"),
    "test": ("S05", "S07", "S11", "S15", "S18"),
}
COUNTS = {"A": 68, "N": 108, "R1": 37, "R2": 41, "R3": 58, "R4": 72, "R5": 52}
SCANS_PER_CLASS = {"train": 6, "validation": 2, "test": 3}
BLOB_LIMIT = 6  # a class of a scan with more patches than this is split into two blobs
FOLD_KINDS = ("N", "R1", "R2", "R3", "R4", "R5", "N", "R3", "R4", "R5") * 2  # of every fold

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


BENIGN = Growth(2.0, 0.05, 0.72, 0.0, 22.0, 0.06, 3.8, 0)
GRADES = {
    "R1": Growth(2.6, 0.04, 0.90, 0.060, 12.5, 0.03, 3.4, 0),
    "R2": Growth(3.4, 0.07, 1.10, 0.112, 15.0, 0.13, 2.8, 0),
    "R3": Growth(4.2, 0.09, 1.30, 0.170, 11.5, 0.09, 1.4, 0),
    "R4": Growth(5.0, 0.10, 1.52, 0.232, 0.0, 0.0, 0.0, 5),
    "R5": Growth(6.2, 0.18, 1.80, 0.300, 0.0, 0.0, 0.0, 0),
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
    empty = (np.zeros((SIZE, SIZE), dtype) for dtype in (np.int32, np.uint8, np.bool_))
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
    blend(c.hema[window], n.dark * (0.88 + 0.20 * rim + 0.45 * grain), alpha)
    blend(c.eosin[window], 0.16, alpha)
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


def paint_tissue(c: Canvas, kind: str) -> None:
    """Grow the tumor in a side region, the rest stays stroma; or large regular benign glands."""
    if g := GRADES.get(kind):
        region = side_region(c.rng, c.rng.uniform(0.50, 0.56))  # same law for every grade
        target = g.coverage * c.rng.uniform(0.95, 1.05)
        (paint_tumor_glands if g.gland else paint_tumor_sheet)(c, region, g, target)
        return
    for _ in range(int(c.rng.integers(2, 5))):
        if spot := pick_room(c, ~c.epithelium, BENIGN.gland * 0.8, 60):
            paint_gland(c, spot, BENIGN, EPITHELIAL)


def paint_stroma_cells(c: Canvas) -> None:
    """Spindle nuclei along the fibres and a few lymphocytes, in the stroma only."""
    closed = ndi.binary_dilation(c.epithelium, iterations=3)
    spindles, lymphocytes = int(c.rng.integers(18, 26)), int(c.rng.integers(0, 5))
    for number in range(spindles + lymphocytes):
        y, x = c.rng.uniform(2, SIZE - 2, 2)
        turn, dark = c.angle[int(y), int(x)] + c.rng.normal(0, 0.12), c.rng.uniform(0.75, 1.0)
        axes, kind = (c.rng.uniform(4.2, 6.2), c.rng.uniform(1.5, 1.9)), CONNECTIVE
        if number >= spindles:
            axes, kind, dark = (2.1, c.rng.uniform(1.9, 2.2)), INFLAMMATORY, 1.25
        if not closed[int(y), int(x)]:
            paint_nucleus(c, (y, x), Nucleus(axes, turn, dark, kind))


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
            colour = np.array(((1.3, 0.75, 0.25), (1.4, 0.35, 0.9), (1.2, 1.15, 1.0)))
            streaks = fibres(rng, np.full((SIZE, SIZE), turn + np.pi / 2))
            stroke = np.clip((rng.uniform(16, 24) - np.abs(offset + streaks)) / 1.5, 0, 1)
            ink = (stroke * (1 + 0.12 * streaks))[..., None] * colour[int(rng.integers(3))]
    return ink


def draw_patch(kind: str, scan: str, index: int, seed: int = 0) -> tuple[np.ndarray, Labels]:
    """Draw patch `index` of class `kind` in `scan`: the uint8 (96, 96, 3) image and its labels.

    Labels are {"instance": int32 (96, 96), nuclei numbered from 1, "kind": uint8 (96, 96), the
    kind codes of the nuclei}; 0 is no nucleus in both.
    """
    if kind not in COUNTS:
        raise ValueError(f"unknown class {kind!r}, expected one of {', '.join(COUNTS)}")
    c = new_stroma(patch_rng(seed, scan, kind, index))
    paint_tissue(c, kind)
    paint_stroma_cells(c)
    ink = spoil(c, index % 4) if kind == "A" else 0.0  # every kind of artifact in every scan
    stains, white = stain_matrix(scan, seed)
    density = np.stack([c.hema, c.eosin], axis=-1).clip(0, None) @ stains + ink
    density *= 1 + 0.03 * smooth_noise(c.rng, 24)[..., None]  # section thickness
    light = ndi.gaussian_filter(white * np.exp(-density), (0.55, 0.55, 0))
    light += c.rng.normal(0, 2.2, light.shape)  # sensor noise
    return np.rint(light.clip(0, 255)).astype(np.uint8), {"instance": c.instance, "kind": c.kind}


def scan_plan() -> list[tuple[str, str, int]]:
    """List (scan, class, number of patches) for the whole DiagSet tree, in drawing order."""
    plan: list[tuple[str, str, int]] = []
    for number, (kind, total) in enumerate(COUNTS.items()):
        chosen: list[str] = []
        for name, scans in PARTITIONS.items():
            # Round robin: classes and scans (so stains) mix as evenly as they can.
            steps = range(number * SCANS_PER_CLASS[name], (number + 1) * SCANS_PER_CLASS[name])
            chosen += [scans[k % len(scans)] for k in steps]
        share, rest = divmod(total, len(chosen))
        plan += [(scan, kind, share + (k < rest)) for k, scan in enumerate(chosen)]
    return plan


def save(path: Path, array: np.ndarray) -> None:
    """Save one array, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=False)


def write_diagset(root: Path, seed: int) -> None:
    """Write the blobs, the truth masks of the tumor nuclei and the partition lists."""
    for scan, kind, count in scan_plan():
        drawn = [draw_patch(kind, scan, index, seed) for index in range(count)]
        parts = np.array_split(np.arange(count), 2 if count > BLOB_LIMIT else 1)
        for number, part in enumerate(parts):
            name = Path(scan) / kind / f"{scan}.blob.{number}.npy"
            save(root / "blobs" / "S" / "20x" / name, np.stack([drawn[i][0] for i in part]))
            truth = np.stack([drawn[i][1]["kind"] == NEOPLASTIC for i in part])
            save(root / "truth" / name, np.packbits(truth, axis=-1))
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
