"""List the tables of a report's page as files, with the numbers that the page shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from histoxai.report.export.tables import Table

# values of the page's template, as `build_page` returns them
PageContent = Mapping[str, Any]


def report_tables(content: PageContent) -> Iterator[Table]:
    """Yield every table of the page."""
    partial = f" ({content['partial']})" if content["partial"] else ""
    yield from _data(content)
    yield _accuracy(content["classifier"])
    yield from _masks(content, partial)
    yield from _evidence(content, partial)
    yield from _class_means(content, partial)
    yield from _faithfulness(content, partial)
    yield from _sanity(content, partial)
    yield from _robustness(content, partial)
    yield Table("commands", "To repeat it, in this order", ["command"], [[c] for c in content["commands"]])
    steps = [[r["name"], r["path"], r["digest"], r["command"]] for r in content["lineage"]]
    yield Table("lineage", "What the report was made from", ["step", "path", "digest", "command"], steps)


def _data(content: PageContent) -> Iterator[Table]:
    counts = content["table1"]
    yield Table("table1-classes", "Patches of each class", ["class", *counts["columns"]], counts["rows"])
    yield Table(
        "leakage",
        "Patches of one split that have relatives in another",
        ["patches of", "relatives in", "kind", "patches", "share"],
        [[r["held_out"], r["seen_in"], r["words"], r["patches"], r["share"]] for r in content["leakage"]["rows"]],
    )


def _accuracy(classifier: Mapping[str, Any]) -> Table:
    rows: list[list[Any]] = [
        [r["name"], r["n"], r["accuracy"], r.get("low"), r.get("high")] for r in classifier["table"]
    ]
    rows.append(["mean of classes", classifier["patches"], classifier["mean"], None, None])
    overall = (classifier["scores"] or {}).get("accuracy", {})
    ends = [overall.get("low"), overall.get("high")]
    rows.append(["all patches", classifier["patches"], classifier["accuracy"], *ends])
    intervals = any(r[3] is not None for r in rows)
    caption = f"Accuracy on the {classifier['split']} split{', with 95 % intervals' if intervals else ''}"
    return Table("table4-accuracy", caption, ["class", "patches", "accuracy", "low", "high"], rows)


def _masks(content: PageContent, partial: str) -> Iterator[Table]:
    segmenter = content["segmenter"]
    if counts := segmenter["table2"]:
        rows = [[name, n] for name, n in counts.items()]
        yield Table("table2-segmentation", "The segmenter's patches", ["split", "patches"], rows)
    yield Table(
        "masks",
        f"The segmenter on its {segmenter['split']} patches, and what its masks cover{partial}",
        ["mask", "IoU", "Dice", "share of pixels", "empty masks"],
        [[r["name"], r["iou"], r["dice"], r["share"], r["empty"]] for r in segmenter["table"]],
    )


def _evidence(content: PageContent, partial: str) -> Iterator[Table]:
    evidence = content["evidence"]
    heads = ["method", "null model", "mean", "low", "high", "chance", "above chance"]
    heads += ["low of it", "high of it", "p (Holm)", "patches", "undefined"]
    for table in evidence["tables"]:
        yield Table(
            f"chance-{table['title'].removesuffix(' mask')}",
            f"{evidence['primary']} on the {table['title']}, with {evidence['level']} intervals, "
            f"beside chance{partial}",
            heads,
            [_chance_row(row) for row in table["rows"]],
            digits=dict.fromkeys((2, 3, 4, 5), (2,)) | dict.fromkeys((6, 7, 8), (6,)),
            differences=(6,),
        )
    yield Table(
        "conclusions",
        f"The study's conclusions as tests on these patches{partial}",
        ["conclusion", "answer", "found", "p (Holm)", "measured here", "measured by the study"],
        [
            _values(c, ("claim", "answer", "words", "p_holm", "measure", "study_measure"))
            for c in evidence["conclusions"]
        ],
    )


def _chance_row(row: Mapping[str, Any]) -> list[Any]:
    above = row["above_chance"]
    return [
        *(row["method"], _yes_or_no(row["null"]), row["mean"], row["low"], row["high"], row["chance"]),
        *(above["mean"], above["low"], above["high"], above["p_holm"], row["n"], row["undefined"]),
    ]


def _class_means(content: PageContent, partial: str) -> Iterator[Table]:
    for table in content["table6"]:
        heads = [f"{c} ({p})" for p in content["profiles"] for c in table["classes"]]
        rows = [[r["metric"], r["method"], *[cell["mean"] for cell in r["cells"]]] for r in table["rows"]]
        caption = f"Means per class, {table['mask']} mask{partial}"
        digits = {k: (k,) for k in range(2, len(heads) + 2)}
        yield Table(f"table6-{table['mask']}", caption, ["measure", "method", *heads], rows, digits, by=(0,))


def _faithfulness(content: PageContent, partial: str) -> Iterator[Table]:
    if (tested := content["faithfulness"]) is None:
        return
    yield Table(
        "faithfulness",
        f"Probes of the model: means over patches with {content['evidence']['level']} intervals{partial}",
        ["probe", "better", "method", "null model", "mean", "low", "high", "patches"],
        [
            [r["probe"], r["better"], r["method"], _yes_or_no(r["null"]), r["mean"], r["low"], r["high"], r["n"]]
            for r in tested["rows"]
        ],
        digits=dict.fromkeys((4, 5, 6), (4,)),
        by=(0,),
    )


def _sanity(content: PageContent, partial: str) -> Iterator[Table]:
    if (tested := content["sanity"]) is None:
        return
    keys, rows = ("rank_correlation", "low", "high", "ssim", "n"), [dict(row) for row in tested["rows"]]
    yield Table(
        "randomised-weights",
        "Similarity of maps with the trained network's while its parts are drawn anew from the output down to "
        f"one, with {content['evidence']['level']} intervals{partial}",
        ["method", "down to", "rank correlation", "low", "high", "SSIM", "patches"],
        [[r["method"], r["down_to"] or "another seed", *[r[k] for k in keys]] for r in rows],
        digits={**dict.fromkeys((2, 3, 4), (2,)), 5: (5,)},
        by=(1,),
    )


def _robustness(content: PageContent, partial: str) -> Iterator[Table]:
    for figure in content["sizes"]:
        yield Table(
            f"sizes-{figure['mask']}",
            f"{content['evidence']['primary']} by the size of the {figure['mask']} mask{partial}",
            ["method", "size", "patches", "mean", "low", "high", "chance"],
            [[r[k] for k in ("method", "size", "n", "mean", "low", "high", "chance")] for r in figure["rows"]],
            digits=dict.fromkeys((3, 4, 5, 6), (3,)),
            by=(1,),
        )
    if thresholds := content["mask_thresholds"]:
        yield Table(
            "mask-thresholds",
            f"IoU where the mask's probability is cut elsewhere{partial}",
            ["mask", "method", *[f"at {t:g}" for t in thresholds["at"]]],
            [[r["mask"], r["method"], *r["means"]] for r in thresholds["rows"]],
            digits={k: (k,) for k in range(2, len(thresholds["at"]) + 2)},
            by=(0,),
        )
    if agreement := content["agreement"]:
        yield Table(
            "agreement",
            f"Mean rank correlation of the methods' maps over {agreement['patches']} patches{partial}",
            ["method", *agreement["methods"]],
            [[name, *row] for name, row in zip(agreement["methods"], agreement["table"], strict=True)],
        )


def _values(row: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    return [row[k] for k in keys]


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"
