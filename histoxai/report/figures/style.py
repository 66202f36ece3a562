"""Hold the look that all figures share: fonts, colours, line styles, the red note, and the file formats.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. Overlays can have the study's green
(map), red (tumor), blue (non-tumor) and yellow (map and tumor) instead, on the unchanged patch.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "svg.hashsalt": "histoxai",
    "image.composite_image": False,  # SVG and PDF keep the pixels of each image
    "text.parse_math": False,  # a class may have a $ in its name
}
METHODS_PER_ROW = 6
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
GRID_GREY = "#eeeeee"
LINE_COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#222222", "#8C6D31")
OVERLAY_COLOURS = {
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
GREYED = ("safe",)  # palettes of overlays under which the patch is grey, so that they alone have colour
MAX_NAME_LENGTH = 16


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw its figure in STYLE."""

    @wraps(draw)
    def draw_in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


@styled
def with_note(figure: Figure, note: str) -> Figure:
    """Write a note in red above a figure, if there is one."""
    if note:
        figure.suptitle(note, x=0.005, ha="left", color=RED, weight="bold", fontsize=10)
    return figure


def line_style(k: int, null: bool) -> dict[str, Any]:
    """Return the keywords of `Axes.plot` for the k-th line; strokes differ too, and null models are dotted."""
    strokes = ["-", "--", "-."]
    stroke = ":" if null else strokes[k // len(LINE_COLOURS) % len(strokes)]
    return {"color": LINE_COLOURS[k % len(LINE_COLOURS)], "ls": stroke, "lw": 1.5}


def abbreviate(name: str) -> str:
    """Cut a name to MAX_NAME_LENGTH letters, so that it fits into a figure."""
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "…"


def tick_rotation(names: Sequence[str], max_letters: int = 19) -> int:
    """Return the angle of tick labels in degrees: 60 if they have more letters than fit side by side, else 0."""
    return 0 if len("".join(names)) <= max_letters else 60


def add_grid(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Draw grey grid lines of one axis behind the data."""
    axes.grid(axis=axis, color=GRID_GREY)
    axes.set_axisbelow(True)


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows 0, 1, ... of a panel from top to bottom, with vertical grid lines."""
    axes.set_yticks(range(len(names)), [abbreviate(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    add_grid(axes, "x")


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as PNG bytes. They hold no date, so equal figures are equal bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    with rc_context(STYLE), _ignoring_missing_glyphs():
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def print_formats(figure: Figure) -> dict[str, bytes]:
    """Return a figure as "svg", "pdf", and "png" of 300 dpi, with embedded fonts and without dates.

    Call `to_png` first: it settles the layout, which is then kept.
    """
    figure.set_layout_engine("none")
    files = {"png": to_png(figure, 300)}
    with rc_context({**STYLE, "svg.fonttype": "path", "pdf.fonttype": 42}), _ignoring_missing_glyphs():
        for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None, "ModDate": None})):
            out = io.BytesIO()
            figure.savefig(out, format=kind, metadata=metadata, dpi=300)
            files[kind] = out.getvalue()
    return files


@contextmanager
def _ignoring_missing_glyphs() -> Iterator[None]:
    # matplotlib draws a box for a letter that the font lacks
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield
