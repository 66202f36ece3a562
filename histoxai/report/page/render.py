"""Render a page from Jinja2 templates with autoescape; figures, styles and scripts are inlined."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from histoxai.core.digits import FEWEST, decimals_for, fixed
from histoxai.report.figures.pool import PageFigure

_ASSETS = "report/page/assets"
# In the order in which they run; all share the names of the first. A page without data needs only two.
SCRIPTS = ("common", "theme", "table", "cut", "explorer", "points")
_SCRIPTS_WITHOUT_DATA = ("common", "theme")


def render(template: str, content: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> str:
    """Render one self-contained HTML page; all of `content` is escaped, and scripts read `data`.

    The page's security policy names its scripts by their digest. No other script can run and nothing can be fetched,
    even if the name of a class or patch contains code.
    """
    assets = files("histoxai").joinpath(_ASSETS)
    style = assets.joinpath("style.css").read_text("utf-8")
    names = SCRIPTS if data is not None else _SCRIPTS_WITHOUT_DATA
    script = "".join(assets.joinpath(f"{name}.js").read_text("utf-8") for name in names)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_sha256(script)}'"
    inlined = {"style": Markup(style), "script": Markup(script), "policy": policy}
    if data is not None:
        inlined["data"] = Markup(embedded(data))
    return _environment().get_template(template).render(**content, **inlined)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("histoxai", _ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = fixed
    environment.filters["decimals"] = decimals_for
    environment.filters["decimals_of_differences"] = lambda values: decimals_for([0.0, *values])
    environment.filters["data_uri"] = data_uri
    environment.filters["percent"] = lambda v: "–" if v is None or not math.isfinite(v) else f"{100 * v:.1f} %"
    environment.filters["percent_interval"] = lambda row: _interval(row, lambda v: f"{100 * v:.1f}", " %")
    environment.filters["interval"] = interval
    environment.filters["p"] = p_value
    environment.filters["capitalize_first"] = lambda t: t[:1].upper() + t[1:]
    environment.filters["thousands"] = lambda v: f"{v:,}"
    return environment


def embedded(data: Mapping[str, Any]) -> str:
    """Return JSON for a `script` element: it can neither end the element nor begin another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def p_value(value: float | None) -> str:
    """Return two digits, or a dash if undefined; no p is 0."""
    return "–" if value is None else "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def interval(row: Mapping[str, Any], decimals: int = FEWEST) -> str:
    """Return the ends of an interval, or a dash where it is withheld."""
    return _interval(row, lambda v: fixed(v, decimals))


def _interval(row: Mapping[str, Any], text: Callable[[float], str], unit: str = "") -> str:
    # a dash where it is withheld
    low, high = row["low"], row["high"]
    return "–" if low is None or high is None else f"{text(low)} to {text(high)}{unit}"


def data_uri(figure: PageFigure) -> str:
    """Return a finished figure as the `src` of an `img` element."""
    return "data:image/png;base64," + base64.b64encode(figure.png).decode()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
