"""The report page: Jinja2 templates with autoescape, pictures, styles and scripts inlined, no network."""

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

from histoxai.report.figures.pool import Picture

# One file each, in the order in which they run; all share the names of the first.
SCRIPTS = ("common", "theme", "table", "cut", "explorer", "points")


def render(template: str, content: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    """One self-contained HTML page. Everything in `content` is escaped; `data` is what the scripts read.

    No script but our own may run, and nothing may be fetched, whatever a class or patch is called: the page's policy
    names our scripts by their digest.
    """
    environment = Environment(
        loader=PackageLoader("histoxai", "report/page/assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["data_uri"] = data_uri
    environment.filters["percent"] = lambda v: "–" if v is None or not math.isfinite(v) else f"{100 * v:.1f} %"
    environment.filters["percents"] = lambda r: _ends(r, lambda v: f"{100 * v:.1f}", " %")
    environment.filters["interval"] = lambda r: _ends(r, lambda v: f"{v:.3f}")
    environment.filters["p"] = p_value
    environment.filters["capitalize_first"] = lambda t: t[:1].upper() + t[1:]
    environment.filters["thousands"] = lambda v: f"{v:,}"
    folder = files("histoxai").joinpath("report/page/assets")
    style = folder.joinpath("style.css").read_text("utf-8")
    names = SCRIPTS if data is not None else SCRIPTS[:2]
    script = "".join(folder.joinpath(f"{name}.js").read_text("utf-8") for name in names)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_sha256(script)}'"
    known = {"style": Markup(style), "script": Markup(script), "policy": policy}
    if data is not None:
        known["data"] = Markup(embedded(data))
    return environment.get_template(template).render(**content, **known)


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a `script` element: nothing in it ends that, or begins another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def number(value: float | None) -> str:
    """Three decimals, a dash for what is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def p_value(value: float | None) -> str:
    """Two digits, a dash for what is undefined; no p is 0."""
    return "–" if value is None else "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def _ends(row: Mapping[str, Any], text: Callable[[float], str], unit: str = "") -> str:
    # an interval; a dash where it is withheld
    low, high = row["low"], row["high"]
    return "–" if low is None or high is None else f"{text(low)} to {text(high)}{unit}"


def data_uri(picture: Picture) -> str:
    """A finished picture as it stands in an `img` element's `src`."""
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
