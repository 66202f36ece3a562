"""The report page: a Jinja2 template with autoescape, pictures inlined, no network."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(content: dict[str, Any]) -> str:
    """One self-contained HTML page. Everything in `content` is escaped; pictures are PNG bytes."""
    environment = Environment(
        loader=PackageLoader("histoxai", "plots"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["data_uri"] = data_uri
    environment.filters["percent"] = lambda v: "–" if v is None else f"{100 * v:.1f} %"
    environment.filters["percents"] = lambda r: _ends(r, lambda v: f"{100 * v:.1f}", " %")
    environment.filters["interval"] = lambda r: _ends(r, lambda v: f"{v:.3f}")
    environment.filters["p"] = lambda v: "–" if v is None else f"{v:.2g}"
    environment.filters["capitalize_first"] = lambda t: t[:1].upper() + t[1:]
    environment.filters["thousands"] = lambda v: f"{v:,}"
    return environment.get_template("page.html").render(**content)


def number(value: float | None) -> str:
    """Three decimals, a dash for what is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _ends(row: Mapping[str, Any], text: Callable[[float], str], unit: str = "") -> str:
    # an interval; a dash where it is withheld
    low, high = row["low"], row["high"]
    return "–" if low is None or high is None else f"{text(low)} to {text(high)}{unit}"


def data_uri(data: bytes) -> str:
    """PNG bytes as they stand in an `img` element's `src`."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
