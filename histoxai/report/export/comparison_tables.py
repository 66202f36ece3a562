"""List the tables of a comparison page as files, with the numbers that the page shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from histoxai.report.export.tables import Table
from histoxai.report.wording import hyphenated

_RUN = ("name", "arch", "patches", "groups", "split", "methods", "path")
_MEAN = ("mean", "low", "high", "chance")
_TEST = {
    **{k: k for k in ("run", "mask", "method", "difference", "low", "high")},
    "p_holm": "p (Holm)",
    "wilcoxon_holm": "Wilcoxon (Holm)",
    "effect": "effect",
    "n": "patches",
    "groups": "groups",
}


def comparison_tables(content: Mapping[str, Any]) -> Iterator[Table]:
    """Yield every table of the page; content: of `build_comparison`."""
    names, measure = [run["name"] for run in content["runs"]], content["primary_words"]
    yield Table(
        "runs",
        "The runs that are compared",
        ["run", "classifier", *_RUN[2:]],
        [_values(run, _RUN) for run in content["runs"]],
    )
    yield Table(
        "settings",
        "In what the runs differ",
        ["of", "setting", *names],
        [[r["of"], r["setting"], *r["values"]] for r in content["settings"]],
    )
    for mask, by_method in content["means"].items():
        heads = [f"{n}: {k}" for n in names for k in _MEAN]
        cells = [[m, *(v for row in of_runs for v in _values(row, _MEAN))] for m, of_runs in by_method.items()]
        means = range(1, len(heads) + 1, len(_MEAN))
        caption = f"{measure} of every run, {hyphenated(mask)} mask"
        digits = dict.fromkeys(range(1, len(heads) + 1), means)
        yield Table(f"means-{mask}", caption, ["method", *heads], cells, digits)
    yield Table(
        "differences",
        f"{measure} less that of {names[0]}, on the patches of both",
        list(_TEST.values()),
        [_values(row, _TEST) for pair in content["pairs"] for row in pair["rows"]],
        digits=dict.fromkeys((3, 4, 5), (3,)),
        by=(1,),
        differences=(3,),
    )
    yield Table(
        "classes",
        f"{measure} by class, {hyphenated(content['mask'])} mask",
        ["class", "method", *names],
        [[r["class"], r["method"], *r["means"]] for r in content["classes"]],
        digits=dict.fromkeys(range(2, len(names) + 2), range(2, len(names) + 2)),
        by=(0,),
    )


def _values(row: Mapping[str, Any] | None, keys: Iterable[str]) -> list[Any]:
    return [None if row is None else row[k] for k in keys]
