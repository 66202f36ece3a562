"""All drawings: arrays in, figures out. The only place where maps are rescaled for the eye.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; overlays can have the study's green (map), red
(tumor), blue (non-tumor) and yellow (map and tumor) instead.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "svg.hashsalt": "histoxai",
    "image.composite_image": False,  # print has the pixels of each picture as they are
    "text.parse_math": False,  # a class may have a $ in its name
}
ACROSS = 6  # methods side by side, as many as a page can show
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
LINES = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#222222", "#8C6D31")
CASE_STYLE = {
    "1": ("o", GREEN, "1 right, sure"),
    "2": ("s", BLUE, "2 right, unsure"),
    "3": ("^", RED, "3 wrong, sure"),
    "4": ("D", "#CC79A7", "4 wrong, unsure"),
}
OVERLAYS = {
    "safe": {
        "map": (0, 158, 115),
        "tumor": (213, 94, 0),
        "non_tumor": (0, 114, 178),
        "map and tumor": (240, 228, 66),
        "map and non-tumor": (86, 180, 233),
    },
    "study": {
        "map": (0, 200, 0),
        "tumor": (230, 0, 0),
        "non_tumor": (30, 60, 255),
        "map and tumor": (255, 235, 0),
        "map and non-tumor": (0, 220, 220),
    },
}
LONGEST = 16  # letters of a name that a figure has room for


_mark = ContextVar("mark", default="")


@contextmanager
def marked(words: str) -> Iterator[None]:
    """Every figure that is drawn inside carries these words above it, in red; none where they are empty."""
    token = _mark.set(words)
    try:
        yield
    finally:
        _mark.reset(token)


def line_of(k: int, null: bool) -> dict[str, Any]:
    """Colour and stroke of the k-th of several lines: told apart without colour too; null models are dotted."""
    strokes = ["-", "--", "-."]
    return {"color": LINES[k % len(LINES)], "ls": ":" if null else strokes[k // len(LINES) % len(strokes)], "lw": 1.5}


def short(name: str) -> str:
    """A name that fits into a figure, its end cut off where it is long."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def finished(figure: Figure) -> Figure:
    """A figure with the words of `marked` above it."""
    if _mark.get():
        figure.suptitle(_mark.get(), x=0.005, ha="left", color=RED, weight="bold", fontsize=10)
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as PNG bytes; no date inside, so that equal figures are equal bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a box stands where a font has no letter
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def for_print(figure: Figure) -> dict[str, bytes]:
    """The same as svg, pdf, and png at 300 dpi; fonts are fixed and embedded, and no date is inside."""
    figure.set_layout_engine("none")  # where things are was settled when the page's picture was drawn
    found = {"png": png(figure, 300)}
    with rc_context({**STYLE, "svg.fonttype": "path", "pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None, "ModDate": None})):
            out = io.BytesIO()
            figure.savefig(out, format=kind, metadata=metadata, dpi=300)
            found[kind] = out.getvalue()
    return found


def curves(history: dict[str, np.ndarray], best_epoch: int, measure: str, words: str) -> Figure:
    """Training and validation loss, and one more measure, over epochs; the kept epoch is marked."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.8), layout="constrained")
        for axes, key, title in zip(figure.subplots(1, 2), ("loss", measure), ("loss", words), strict=True):
            for part, colour in (("train", BLUE), ("validation", ORANGE)):
                axes.plot(history["epoch"], history[f"{part}_{key}"], color=colour, marker=".", label=part)
            axes.axvline(best_epoch, color=GREY, lw=1, ls=":", label=f"kept: epoch {best_epoch}")
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(frameon=False, fontsize=8)
        return finished(figure)


def confusion(table: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix (C, C): rows true, columns predicted; colour is the share of the row."""
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        side = 1.6 + 0.48 * len(classes)
        figure = Figure(figsize=(side + 1.6, side), layout="constrained")
        axes = figure.subplots()
        shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(table):
            axes.text(j, i, str(n), ha="center", va="center", color="white" if share[i, j] > 0.55 else "black")
        axes.set(xlabel="predicted", ylabel="true")
        names = [short(c) for c in classes]
        axes.set_xticks(range(len(classes)), names, rotation=_turned(names))
        axes.set_yticks(range(len(classes)), names)
        figure.colorbar(shown, ax=axes, shrink=0.8, label="share of the true class")
        return finished(figure)


def violins(
    values: np.ndarray,
    label: np.ndarray,
    case: np.ndarray,
    classes: Sequence[str],
    methods: Sequence[str],
    masks: Sequence[str],
    metric: str,
) -> Figure:
    """One measure: a violin per class in a panel per mask (row) and method (column), case means marked.

    values (n, methods, masks), NaN undefined; label (n,), case (n,) 1 to 4. More than ACROSS methods go on below.
    """
    with rc_context(STYLE):
        top = 0.55 if _mark.get() else 0.3
        columns, lines = min(ACROSS, len(methods)), -(-len(methods) // ACROSS) * len(masks)
        width, height = 2.6 * columns + 0.8, 2.3 * lines + 0.3 + top
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        # Margins in inches: an automatic layout would draw every panel twice.
        figure.subplots_adjust(0.6 / width, 0.65 / height, 1 - 0.1 / width, 1 - top / height, 0.1, 0.38)
        for (line, column), axes in np.ndenumerate(grid):
            row, method = line % len(masks), line // len(masks) * ACROSS + column
            if method >= len(methods):
                axes.set_visible(False)
                continue
            _violin_panel(axes, values[:, method, row], label, case, classes)
            axes.set_title(f"{short(methods[method])}, {masks[row].replace('_', '-')}")
            if column == 0:
                axes.set_ylabel(metric)
        marks = [Line2D([], [], marker=m, color=c, ls="", ms=5, label=words) for m, c, words in CASE_STYLE.values()]
        figure.legend(handles=marks, loc="lower center", ncols=4, frameon=False)
        return finished(figure)


def _turned(names: Sequence[str]) -> int:
    return 0 if len("".join(names)) < 20 else 60


def _violin_panel(axes: Axes, values: np.ndarray, label: np.ndarray, case: np.ndarray, classes: Sequence[str]) -> None:
    for code in range(len(classes)):
        chosen = (label == code) & np.isfinite(values)
        mine = values[chosen]
        # A density needs three values and some spread; fewer are shown as they are.
        if len(mine) >= 3 and np.ptp(mine) > 1e-9:
            bodies: Any = axes.violinplot(mine, [code], widths=0.85, showextrema=False)["bodies"]
            for body in bodies:
                body.set(facecolor="#9ecae1", edgecolor="#6baed6", alpha=0.8)
        else:
            axes.plot([code] * len(mine), mine, "_", color="#6baed6", ms=12)
        for number, (marker, colour, _) in CASE_STYLE.items():
            of_case = values[chosen & (case == int(number))]
            if len(of_case):
                axes.plot(code + (int(number) - 2.5) * 0.13, of_case.mean(), marker, color=colour, ms=4)
    names = [short(c) for c in classes]
    axes.set_xticks(range(len(classes)), names, rotation=_turned(names))
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)


def overlay(
    image: np.ndarray, found: np.ndarray, tumor: np.ndarray, other: np.ndarray, colours: str = "safe"
) -> np.ndarray:
    """The study's overlay on a greyed patch: map, tumor, non-tumor, and where the map meets either.

    image (H, W, 3) uint8; found, tumor, other (H, W) bool; colours: of OVERLAYS -> (H, W, 3) uint8.
    """
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    colour = grey.copy()
    for plane, name in (
        (other, "non_tumor"),
        (tumor, "tumor"),
        (found, "map"),
        (found & other, "map and non-tumor"),
        (found & tumor, "map and tumor"),
    ):
        colour[plane] = OVERLAYS[colours][name]
    return (0.45 * grey + 0.55 * colour).round().astype(np.uint8)


def maps_of_method(
    images: Sequence[np.ndarray],
    signed: Sequence[np.ndarray],
    planes: Sequence[np.ndarray],
    tumor: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    titles: Sequence[str],
    threshold: float,
    colours: str,
) -> Figure:
    """The study's figures 12 to 15: for one method, patches with signed evidence, the map, and the map over the masks.

    signed (H, W), shown as a share of each patch's largest; planes (H, W) in 0..1, shown on that scale; the overlay
    shows map > threshold.
    """
    scale, both = ScalarMappable(Normalize(0, 1), "magma"), ScalarMappable(Normalize(-1, 1), "RdBu_r")
    evidence = [both.to_rgba(np.nan_to_num(s / max(np.abs(s).max(), 1e-30)), bytes=True)[..., :3] for s in signed]
    shown = [scale.to_rgba(p, bytes=True)[..., :3] for p in planes]
    masks = zip(images, [p > threshold for p in planes], tumor, other, strict=True)
    over = [overlay(*four, colours) for four in masks]
    rows = ["patch", "signed evidence", "map as scored", f"map > {threshold:g}\nover masks"]
    figure, axes = _sheet([images, evidence, shown, over], titles, rows, colours)
    with rc_context(STYLE):
        figure.colorbar(scale, ax=axes, shrink=0.4, pad=0.02, label="map as scored, 0 to 1")
        figure.colorbar(both, ax=axes, shrink=0.4, pad=0.02, label="signed evidence / its largest")
    return finished(figure)


def case_sheet(rows: Sequence[tuple[Any, ...]], methods: Sequence[str], threshold: float, colours: str) -> Figure:
    """The study's figures 16 to 19: one case, a patch per class (row) with each method's overlay (column).

    rows: (title, image, tumor, other, a plane per method), or (title,) where a class has no patch of this case.
    """
    grid: list[list[np.ndarray | None]] = []
    for _, *found in rows:
        if not found:
            grid.append([None] * (len(methods) + 1))
            continue
        image, tumor, other, planes = found
        grid.append([image, *[overlay(image, p > threshold, tumor, other, colours) for p in planes]])
    figure, _ = _sheet(grid, ["patch", *[short(m) for m in methods]], [row[0] for row in rows], colours)
    return finished(figure)


def _sheet(
    grid: Sequence[Sequence[np.ndarray | None]], columns: Sequence[str], rows: Sequence[str], colours: str
) -> tuple[Figure, Axes]:
    # All pictures on one pair of axes: a pair for each would take seconds to lay out.
    with rc_context(STYLE):
        figure = Figure(figsize=(1.5 * len(columns) + 1.3, 1.5 * len(rows) + 0.7), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        for y, row in enumerate(grid):
            for x, image in enumerate(row):
                place = (x + 0.03, x + 0.97, -y - 0.97, -y - 0.03)
                shown = np.full((1, 1, 3), 244, np.uint8) if image is None else image
                axes.imshow(shown, extent=place, interpolation="none")
            if row[0] is None:
                axes.text(0.5, -y - 0.5, "none", ha="center", va="center", color=GREY)
            axes.text(-0.04, -y - 0.5, rows[y], ha="right", va="center", fontsize=8)
        for x, title in enumerate(columns):
            axes.text(x + 0.5, 0.03, title, ha="center", va="bottom", fontsize=8)
        axes.set(xlim=(0, len(columns)), ylim=(-len(rows), 0))
        _overlay_legend(figure, colours)
        return figure, axes


def _overlay_legend(figure: Figure, colours: str) -> None:
    handles = [Patch(color=np.array(c) / 255, label=n.replace("_", "-")) for n, c in OVERLAYS[colours].items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def slide_sheet(
    thumbnail: np.ndarray,
    boxes: Sequence[tuple[float, float, float, bool | None]],
    aspect: float,
    masks: np.ndarray,
    maps: Mapping[str, np.ndarray],
    colours: str,
) -> Figure:
    """A slide: its patches, the masks, and each method's maps where they lie, on the greyed slide.

    thumbnail (h, w, 3) uint8. boxes: x, y, width in its px and whether the patch was taken for its class, None without
    one; aspect: their height over width. masks (h, w): 1 tumor, 2 non-tumor. maps: method -> (h, w) in 0..1, NaN where
    there is no patch.
    """
    grey = np.repeat(thumbnail.mean(axis=2, keepdims=True), 3, axis=2)
    look, scale = OVERLAYS[colours], ScalarMappable(Normalize(0, 1), "magma")
    painted = grey.copy()
    for code, name in ((1, "tumor"), (2, "non_tumor")):
        painted[masks == code] = 0.3 * grey[masks == code] + 0.7 * np.array(look[name])
    panels = [("explained patches", thumbnail), ("masks", painted.round().astype(np.uint8))]
    for name, plane in maps.items():
        shown = scale.to_rgba(np.nan_to_num(plane), bytes=True)[..., :3].astype(float)
        there = np.isfinite(plane)[..., None]
        panels.append((short(name), np.where(there, 0.25 * grey + 0.75 * shown, grey).round().astype(np.uint8)))
    with rc_context(STYLE):
        columns = min(4, len(panels))
        lines = -(-len(panels) // columns)
        tall = min(8.0, 2.5 * thumbnail.shape[0] / thumbnail.shape[1])  # a narrow slide stands in a wide panel
        figure = Figure(figsize=(2.6 * columns + 0.9, (tall + 0.35) * lines + 0.3), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.ravel():
            axes.set_axis_off()
        for axes, (title, picture) in zip(grid.ravel(), panels, strict=False):
            axes.imshow(picture)
            axes.set_title(title, fontsize=8)
        for x, y, side, right in boxes:
            colour = GREY if right is None else BLUE if right else RED
            grid[0, 0].add_patch(Rectangle((x, y), side, side * aspect, fill=False, ec=colour, lw=0.8))
        figure.colorbar(scale, ax=grid, shrink=0.6, pad=0.01, label="map as scored, 0 to 1")
        handles = [Patch(fill=False, ec=BLUE, label="right"), Patch(fill=False, ec=RED, label="wrong")]
        handles += [Patch(color=np.array(look[n]) / 255, label=n.replace("_", "-")) for n in ("tumor", "non_tumor")]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
        return finished(figure)
