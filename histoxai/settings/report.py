"""Settings of `report`: the page of one scores store, and the comparison of several."""

from __future__ import annotations

from dataclasses import dataclass

from histoxai.settings import base
from histoxai.settings.base import Checked, option

_PAGE = "Page"
_TITLE = "histoxai report"


@dataclass(frozen=True, kw_only=True)
class Comparison(Checked):
    """Settings of a page that compares several scores stores; primary as in `Statistics`."""

    title: str = "histoxai comparison"
    primary: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report(Checked):
    """Settings of the page of one scores store; primary and cancer as in `Statistics`."""

    title: str = option(_TITLE, "Title of the page.", _PAGE, parse=lambda text: text or _TITLE)
    colours: str = option(
        "safe", "Overlays (safe: for colour-blind readers too, on grey)", _PAGE, choices=("safe", "study")
    )
    examples: int = option(100, "Patches that can be looked at on the page.", _PAGE, "N", ge=0)
    show: tuple[str, ...] = option((), "A patch that must be among them.", _PAGE, "ID", repeated=True)
    limit: float = option(25.0, "Largest size of the page.", _PAGE, "MB", ge=1)
    primary: str | None = base.primary(_PAGE)
    cancer: tuple[str, ...] | None = base.cancer(_PAGE)

    def for_comparison(self) -> Comparison:
        """Return the settings of a page that compares several stores."""
        title = Comparison.title if self.title == _TITLE else self.title
        return Comparison(title=title, primary=self.primary)
