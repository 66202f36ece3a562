"""Tables of all methods, made from their classes: `explain --list`, and the table in the docs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypedDict

from histoxai.core.errors import HistoxaiError
from histoxai.core.references import Reference, parse_bibtex, references
from histoxai.core.registry import builtin_names, names, origin, plugins, resolve
from histoxai.explain.bases.method import Method

# Families in the order of the docs' table.
FAMILIES = ("gradient", "perturbation", "activation map", "null model")


class MethodRow(TypedDict):
    """One method of `explain --list`.

    method: name after `--method`. what: one sentence. source: its papers. passes: cost of a patch in passes through the
    network. options: defaults. label: name in the literature. family: kind of method. citations: keys of the papers.
    origin: "histoxai", or the package and version that provides it. bibtex: entries of `citations`.
    """

    method: str
    what: str
    source: str
    passes: str
    options: dict[str, Any]
    label: str
    family: str
    citations: list[str]
    origin: str


def method_rows() -> list[MethodRow]:
    """One row for every registered method; a plugin that cannot be used says why in `what`."""
    return [_row(name) for name in names("method")]


def _row(name: str) -> MethodRow:
    row: MethodRow = {
        "method": name,
        "what": "",
        "source": "",
        "passes": "",
        "options": {},
        "label": name,
        "family": "",
        "citations": [],
        "origin": origin("method", name),
    }
    try:
        kind = resolve("method", name)
        options = kind.Options()
        row["what"], row["source"], row["passes"] = summary_of(kind), source_of(kind), kind.cost(options)
        row["label"], row["family"], row["citations"] = kind.label, kind.family, list(kind.citations)
        row["options"] = dict(vars(options))
    except HistoxaiError as error:
        row["what"] = str(error)
    return row


def summary_of(kind: type[Method]) -> str:
    """The first paragraph of a method's docstring on one line."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def source_of(kind: type[Method]) -> str:
    """A method's papers: authors, year and where to find them; "closed form" if it cites none."""
    works = {**references(), **parse_bibtex(kind.bibtex)}
    return "; ".join(works[key].short if key in works else key for key in kind.citations) or "closed form"


def plugin_references() -> dict[str, Reference]:
    """Works by citation key that plugins' methods bring along; plugins that cannot be used have none."""
    works: dict[str, Reference] = {}
    for name in plugins("method"):
        with suppress(HistoxaiError):
            works |= parse_bibtex(resolve("method", name).bibtex)
    return works


def markdown_table() -> str:
    """The docs' table of histoxai's own methods."""
    lines = ["| method | name | family | paper | cost of a patch, in passes |", "|---|---|---|---|---|"]
    rows = [_row(name) for name in builtin_names("method")]
    for row in sorted(rows, key=lambda r: FAMILIES.index(r["family"])):
        lines.append(f"| `{row['method']}` | {row['label']} | {row['family']} | {row['source']} | {row['passes']} |")
    return "\n".join(lines)
