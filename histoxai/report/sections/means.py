"""Build the numbers behind the page's table of all means, which its scripts draw."""

from __future__ import annotations

from histoxai.report.page.payload import MEAN_KEYS
from histoxai.report.sections.base import ReportInputs, Section, columns, float_columns


def build(inputs: ReportInputs) -> Section:
    """Build arrays of every mean of every profile, a row each; the template needs no values."""
    rows = [{**row, "profile": profile} for profile, means in inputs.results.means.items() for row in means]
    texts, counts = columns("means", rows, MEAN_KEYS), columns("means", rows, ("n", "undefined"))
    return Section({}, texts | float_columns("means", rows, ("mean", "low", "high", "chance")) | counts)
