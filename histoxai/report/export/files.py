"""List the files that a paper takes from a report: tables, figures, methods text and bibliography."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from histoxai.report.export.methods_text import as_latex, as_markdown, bibliography, methods_sentences
from histoxai.report.export.tables import Table
from histoxai.report.figures.pool import FigurePool
from histoxai.report.lineage import Lineage


def export_files(
    tables: Iterable[Table], figures: FigurePool, runs: Mapping[str, Lineage], statistics: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Yield path below the export's folder, and bytes, of every file.

    figures: the page's, drawn for print. runs: by name; the name of a single run is "". statistics: settings as used.
    """
    for table in tables:
        yield f"tables/{table.name}.csv", table.csv()
        yield f"tables/{table.name}.tex", table.latex()
        yield f"tables/{table.name}.md", table.markdown()
    for name, data in figures.files():
        yield f"figures/{name}", data
    all_sentences = []
    for run, lineage in runs.items():
        sentences = methods_sentences(lineage, statistics)
        name = f"methods-{run}" if run else "methods"
        yield f"{name}.md", as_markdown(sentences)
        yield f"{name}.tex", as_latex(sentences)
        all_sentences += sentences
    yield "references.bib", bibliography(all_sentences)
