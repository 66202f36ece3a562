"""List the files that a paper takes from a report: tables, figures, methods text and bibliography."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from histoxai.report.content import MethodsFacts
from histoxai.report.export.methods_text import as_latex, as_markdown, bibliography, methods_sentences
from histoxai.report.export.tables import Table
from histoxai.report.figures.pool import FigurePool


def export_files(
    tables: Iterable[Table], figures: FigurePool, facts: Mapping[str, MethodsFacts]
) -> Iterator[tuple[str, bytes]]:
    """Yield path below the export's folder, and bytes, of every file.

    figures: the page's, drawn for print. facts: of each run by name; the name of a single run is "".
    """
    for table in tables:
        yield f"tables/{table.name}.csv", table.csv()
        yield f"tables/{table.name}.tex", table.latex()
        yield f"tables/{table.name}.md", table.markdown()
    for name, data in figures.files():
        yield f"figures/{name}", data
    all_sentences = []
    for run, facts_of_run in facts.items():
        sentences = methods_sentences(facts_of_run)
        name = f"methods-{run}" if run else "methods"
        yield f"{name}.md", as_markdown(sentences)
        yield f"{name}.tex", as_latex(sentences)
        all_sentences += sentences
    yield "references.bib", bibliography(all_sentences)
