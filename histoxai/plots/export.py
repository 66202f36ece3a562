"""What a paper takes from a report: every table and figure as files of their own, the methods and whom to cite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from histoxai.plots.gallery import Gallery
from histoxai.plots.methods import as_latex, as_markdown, bibliography, paragraph
from histoxai.plots.tabular import Table


def files(content: Mapping[str, Any], gallery: Gallery, facts: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Path below the folder, and bytes, of everything.

    content: of the page; gallery: its figures, kept; facts: of `methods.paragraph`.
    """
    for table in tables(content):
        yield f"tables/{table.name}.csv", table.csv()
        yield f"tables/{table.name}.tex", table.latex()
        yield f"tables/{table.name}.md", table.markdown()
    for name, data in gallery.files():
        yield f"figures/{name}", data
    said = paragraph(facts)
    yield "methods.md", as_markdown(said)
    yield "methods.tex", as_latex(said)
    yield "references.bib", bibliography(said)


def tables(content: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of the page, with the numbers that it shows."""
    partial = f" ({content['partial']})" if content["partial"] else ""
    first = content["table1"]
    yield Table("table1-classes", "Patches of each class", ["class", *first["columns"]], first["rows"])
    yield _accuracy(content["classifier"])
    masks = content["segmenter"]["table"]
    yield Table(
        "masks",
        f"The segmenter on its {content['segmenter']['split']} patches, and what its masks cover{partial}",
        ["mask", "IoU", "Dice", "share of pixels", "empty masks"],
        [[r["name"], r["iou"], r["dice"], r["share"], r["empty"]] for r in masks],
    )
    evidence = content["evidence"]
    for t in evidence["tables"]:
        yield Table(
            f"chance-{t['title'].removesuffix(' mask')}",
            f"{evidence['primary']} on the {t['title']}, with {evidence['level']} intervals, beside chance{partial}",
            [*("method", "null model", "mean", "low", "high", "chance", "above chance"), *_MORE],
            [_chance_row(row) for row in t["rows"]],
        )
    yield Table(
        "conclusions",
        f"The study's conclusions as tests on these patches{partial}",
        ["conclusion", "answer", "found", "p (Holm)"],
        [[c["claim"], c["answer"], c["words"], c["p_holm"]] for c in evidence["conclusions"]],
    )
    for t in content["table6"]:
        heads = [f"{c} ({p})" for p in content["profiles"] for c in t["classes"]]
        rows = [[r["metric"], r["method"], *[cell["mean"] for cell in r["cells"]]] for r in t["rows"]]
        name = f"table6-{t['mask']}"
        yield Table(name, f"Means per class, {t['mask']} mask{partial}", ["measure", "method", *heads], rows)
    steps = [[r["name"], r["path"], r["digest"], r["command"]] for r in content["lineage"]]
    yield Table("lineage", "What the report was made from", ["step", "path", "digest", "command"], steps)


_MORE = ("low of it", "high of it", "p (Holm)", "patches", "undefined")


def _accuracy(classifier: Mapping[str, Any]) -> Table:
    rows = [[r["name"], r["n"], r["accuracy"], r.get("low"), r.get("high")] for r in classifier["table"]]
    rows.append(["mean of classes", classifier["patches"], classifier["mean"], None, None])
    everything = (classifier["scores"] or {}).get("accuracy", {})
    ends = [everything.get("low"), everything.get("high")]
    rows.append(["all patches", classifier["patches"], classifier["accuracy"], *ends])
    caption = f"Accuracy on the {classifier['split']} split, with 95 % intervals"
    return Table("table4-accuracy", caption, ["class", "patches", "accuracy", "low", "high"], rows)


def _chance_row(row: Mapping[str, Any]) -> list[Any]:
    above = row["above_chance"]
    return [
        *(row["method"], "yes" if row["null"] else "no", row["mean"], row["low"], row["high"], row["chance"]),
        *(above["mean"], above["low"], above["high"], above["p_holm"], row["n"], row["undefined"]),
    ]
