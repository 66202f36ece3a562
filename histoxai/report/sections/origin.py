"""Build the section on the page's origin: the stores it was made from, and the commands to repeat it."""

from __future__ import annotations

from typing import TypedDict

from histoxai.report.lineage import Ancestor
from histoxai.report.sections.base import ReportInputs, Section


class OriginContent(TypedDict):
    """Values of the template `sections/lineage.html`."""

    lineage: list[Ancestor]
    commands: list[str]


def build(inputs: ReportInputs) -> Section:
    """Build the section; it has no numbers."""
    content: OriginContent = {"lineage": inputs.lineage.ancestors(), "commands": inputs.lineage.commands()}
    return Section(content)
