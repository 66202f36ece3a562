"""What a paper takes from a report: every table and figure as files of their own, the methods and whom to cite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from histoxai.report.export.methods_text import as_latex, as_markdown, bibliography, paragraph
from histoxai.report.export.tables import Table
from histoxai.report.figures.pool import Gallery


def files(
    tables: Iterable[Table], gallery: Gallery, facts: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    """Path below the folder, and bytes, of everything.

    gallery: the page's figures, kept; facts: of `methods.paragraph`, by the run they are of ("" where there is one).
    """
    for table in tables:
        yield f"tables/{table.name}.csv", table.csv()
        yield f"tables/{table.name}.tex", table.latex()
        yield f"tables/{table.name}.md", table.markdown()
    for name, data in gallery.files():
        yield f"figures/{name}", data
    everything = []
    for run, about in facts.items():
        said = paragraph(about)
        name = f"methods-{run}" if run else "methods"
        yield f"{name}.md", as_markdown(said)
        yield f"{name}.tex", as_latex(said)
        everything += said
    yield "references.bib", bibliography(everything)


def tables(content: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of a report's page, with the numbers that it shows."""
    partial = f" ({content['partial']})" if content["partial"] else ""
    first = content["table1"]
    yield Table("table1-classes", "Patches of each class", ["class", *first["columns"]], first["rows"])
    yield Table(
        "leakage",
        "Patches of one split that have relatives in another",
        ["patches of", "relatives in", "kind", "patches", "share"],
        [[r["held_out"], r["seen_in"], r["words"], r["patches"], r["share"]] for r in content["leakage"]["rows"]],
    )
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
    yield from _tests_on_model(content, partial)
    yield from _robustness(content, partial)
    yield Table("commands", "To repeat it, in this order", ["command"], [[c] for c in content["commands"]])
    steps = [[r["name"], r["path"], r["digest"], r["command"]] for r in content["lineage"]]
    yield Table("lineage", "What the report was made from", ["step", "path", "digest", "command"], steps)


_MORE = ("low of it", "high of it", "p (Holm)", "patches", "undefined")


def _tests_on_model(content: Mapping[str, Any], partial: str) -> Iterator[Table]:
    level = content["evidence"]["level"]
    if found := content["faithfulness"]:
        yield Table(
            "faithfulness",
            f"Probes of the model: means over patches with {level} intervals{partial}",
            ["probe", "better", "method", "null model", "mean", "low", "high", "patches"],
            [
                [r["probe"], r["better"], r["method"], _yes(r["null"]), r["mean"], r["low"], r["high"], r["n"]]
                for r in found["rows"]
            ],
        )
    if found := content["sanity"]:
        yield Table(
            "randomised-weights",
            "Similarity of maps with the trained network's while its parts are drawn anew from the output down to "
            f"one, with {level} intervals{partial}",
            ["method", "down to", "rank correlation", "low", "high", "SSIM", "patches"],
            [
                [
                    r["method"],
                    r["down_to"] or "another seed",
                    r["rank_correlation"],
                    r["low"],
                    r["high"],
                    r["ssim"],
                    r["n"],
                ]
                for r in found["rows"]
            ],
        )


def _robustness(content: Mapping[str, Any], partial: str) -> Iterator[Table]:
    for f in content["sizes"]:
        yield Table(
            f"sizes-{f['mask']}",
            f"{content['evidence']['primary']} by the size of the {f['mask']} mask{partial}",
            ["method", "size", "patches", "mean", "low", "high", "chance"],
            [[r[k] for k in ("method", "size", "n", "mean", "low", "high", "chance")] for r in f["rows"]],
        )
    if found := content["mask_thresholds"]:
        yield Table(
            "mask-thresholds",
            f"IoU where the mask's probability is cut elsewhere{partial}",
            ["mask", "method", *[f"at {t:g}" for t in found["at"]]],
            [[r["mask"], r["method"], *r["means"]] for r in found["rows"]],
        )
    if found := content["agreement"]:
        yield Table(
            "agreement",
            f"Mean rank correlation of the methods' maps over {found['patches']} patches{partial}",
            ["method", *found["methods"]],
            [[name, *row] for name, row in zip(found["methods"], found["table"], strict=True)],
        )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _accuracy(classifier: Mapping[str, Any]) -> Table:
    rows = [[r["name"], r["n"], r["accuracy"], r.get("low"), r.get("high")] for r in classifier["table"]]
    rows.append(["mean of classes", classifier["patches"], classifier["mean"], None, None])
    everything = (classifier["scores"] or {}).get("accuracy", {})
    ends = [everything.get("low"), everything.get("high")]
    rows.append(["all patches", classifier["patches"], classifier["accuracy"], *ends])
    some = any(r[3] is not None for r in rows)
    caption = f"Accuracy on the {classifier['split']} split{', with 95 % intervals' if some else ''}"
    return Table("table4-accuracy", caption, ["class", "patches", "accuracy", "low", "high"], rows)


def _chance_row(row: Mapping[str, Any]) -> list[Any]:
    above = row["above_chance"]
    return [
        *(row["method"], _yes(row["null"]), row["mean"], row["low"], row["high"], row["chance"]),
        *(above["mean"], above["low"], above["high"], above["p_holm"], row["n"], row["undefined"]),
    ]
