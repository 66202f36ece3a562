"""The report's first lines say what is so where it is known what is so, and tables survive any name."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import re
import time
from typing import Any

import numpy as np
import pytest

from histoxai.core import registry
from histoxai.core.errors import HistoxaiError
from histoxai.core.progress import Silent
from histoxai.report.export.methods_text import Sentence, as_latex, as_markdown, bibliography
from histoxai.report.export.tables import Table, escape_latex
from histoxai.report.figures.pool import FigurePool
from histoxai.report.figures.style import print_formats
from histoxai.report.figures.tests import Bar, forest
from histoxai.report.figures.training import reliability_curve
from histoxai.report.sections.answer import Answer, write_answer
from histoxai.report.sections.evidence import evidence_arrays, write_evidence
from histoxai.score.summary.summarise import summarise
from histoxai.settings import Statistics
from tests.score.test_conclusions import planted

QUICK = Statistics(repetitions=1000)


def answer_to(**how: Any) -> Answer:
    return write_answer(summarise(planted(**how), QUICK), (64, 96))


def test_the_method_that_finds_the_evidence_is_named() -> None:
    found = answer_to(gradcam=0.3, lime=0.15, ig=-0.1)
    first, second, third, fourth = found["answer"]
    assert first.startswith("gradcam has the highest mean and beats chance (pixel AUROC 0.8")
    assert "where chance gives 0.500" in first
    assert re.search(r"95 % interval 0\.\d{3} to 0\.\d{3}", first)
    assert first.endswith("; lime does so too. ig is shown to be below chance.")
    assert second.startswith(
        "gradcam and lime are better than random, the best of the null models explained (gradcam by +0."
    )
    assert second.endswith("; nt is not shown to be. ig is shown to be worse.")
    assert third == (
        "gradcam is better than every other method, lime, nt and ig, on the patches where both have a value."
    )
    assert fourth.startswith(
        "5 of the study's 12 conclusions are supported here: “GradCAM agrees best with the tumor mask (auroc)”; "
    )
    assert any(line.startswith("That the maps of ig and nt lie on the tumor mask") for line in found["unsupported"])
    assert "96 × 64 px, 384 of them from 24 groups" in found["question"]


def test_on_random_maps_no_method_beats_chance() -> None:
    # one in twenty may say otherwise by the tests' own level; of 60 seeds from 100 on, none did
    for seed in range(100, 106):
        first, second, third, _ = answer_to(seed=seed)["answer"]
        assert first.startswith("No method is shown to beat chance: the highest mean is that of ")
        assert second.startswith("No method is shown to be better than random, the best of the null models explained.")
        assert third.startswith("Between ")


def test_a_method_as_good_as_the_best_is_not_put_below_it() -> None:
    third = answer_to(gradcam=0.2, lime=0.2)["answer"][2]
    assert re.fullmatch(
        r"(gradcam|lime) is better than (ig and nt|nt and ig), on the patches where both have a value; "
        r"between (gradcam|lime) and (lime|gradcam) no difference is shown\.",
        third,
    )


def test_few_groups_claim_nothing() -> None:
    found = answer_to(groups=6, gradcam=0.3)
    assert found["answer"][0].startswith("gradcam has the highest mean")
    assert "nothing can be claimed" in found["answer"][0]
    assert "no method" not in found["answer"][0].lower()
    assert found["answer"][3] == "None of the study's 12 conclusions is supported on these patches."


def test_what_is_not_there_is_not_spoken_of() -> None:
    """Stores of null models alone, without any, with undefined methods, and where the mean misleads."""
    summary = summarise(planted(gradcam=0.3), QUICK)
    for method in summary["methods"].values():
        method["null"] = True
    found = write_answer({**summary, "best_null": [], "comparisons": []}, (64, 64))
    assert len(found["answer"]) == 1
    assert "null models" in found["answer"][0]
    summary = summarise(planted(gradcam=0.3), QUICK)
    summary["methods"]["random"]["null"] = False
    assert "no null model was explained" in write_answer({**summary, "best_null": []}, (64, 64))["answer"][1]
    summary = summarise(planted(gradcam=0.3, lime=0.15), QUICK)
    for row in summary["rows"]:
        if row["method"] == "nt":
            row.update(mean=None, n=0)
            row["above_chance"].update(mean=None, p_holm=None)
    for pair in summary["comparisons"]:
        if {pair["a"], pair["b"]} == {"lime", "gradcam"}:  # on the patches that both have
            pair["difference"] = 0.1 if pair["a"] == "lime" else -0.1
    found = write_answer(summary, (64, 64))["answer"]
    assert "there lime is better than gradcam" in found[2]
    assert found[2].endswith("nt has no value.")
    for row in summary["rows"]:
        if row["method"] == "gradcam":
            row["above_chance"]["p_holm"] = None
    assert "gradcam has the highest mean" in write_answer(summary, (64, 64))["answer"][0]
    assert write_answer(summary, (64, 64))["answer"][0].endswith("but has no test; lime does beat it.")


def test_conclusions_without_support_are_listed() -> None:
    scores = planted(gradcam=0.3)
    summary = summarise(scores, QUICK)
    lines = write_answer(summary, (64, 64))["unsupported"]
    refuted = [c for c in summary["conclusions"] if c["answer"] in ("not supported", "contradicted")]
    assert [line for line in lines if line.startswith("The study's conclusion")] == [
        f"The study's conclusion “{c['claim']}”. {c['words']}" for c in refuted
    ]
    assert refuted
    few = write_answer(summarise(planted(groups=6), QUICK), (64, 64))["unsupported"]
    assert few == ["12 of the study's 12 conclusions cannot be tested on these patches; the table below says why."]


def test_the_figures_of_the_evidence_are_drawn_of_its_rows() -> None:
    pool = FigurePool(for_print=True)
    summary = summarise(planted(gradcam=0.3, lime=0.15), QUICK)
    made = write_evidence(summary, pool)
    rows = made["tables"][0]["rows"]
    assert [r["method"] for r in rows] == ["ig", "nt", "lime", "gradcam", "random"]
    assert [r["null"] for r in rows] == [False] * 4 + [True]
    arrays = evidence_arrays(summary)
    tumor = arrays["primary_mask"] == "tumor"
    assert arrays["primary_method"][tumor].tolist() == [r["method"] for r in rows]
    np.testing.assert_allclose(arrays["primary_mean"][tumor], [r["mean"] for r in rows])
    names = [name for name, _ in pool.files()]
    assert {"forest.svg", "forest.pdf", "forest.png", "ranks-tumor.svg"} <= set(names)


def test_a_figure_for_print_is_the_same_bytes_each_time() -> None:
    bars = [Bar(n, m, m - 0.1, m + 0.1, p, null=False) for n, m, p in (("a", 0.2, 0.01), ("b", 0.0, None))]
    first, again = (print_formats(forest([("tumor mask", bars)], "IoU", 0.05)) for _ in range(2))
    assert first.keys() == {"png", "svg", "pdf"}
    assert first == again


@pytest.mark.parametrize("more", [0, 3])
def test_a_killed_drawing_process_is_an_error_and_no_hang(more: int) -> None:
    def draw_all() -> None:
        with FigurePool(workers=2) as pool:
            pool.add("killed", os._exit, 1)
            for k in range(more):
                time.sleep(0.5)
                pool.add(f"f{k}", reliability_curve, [{"confidence": 0.5, "accuracy": 0.5, "n": 1}])
            pool.finish(Silent())

    with pytest.raises(HistoxaiError, match="--workers 1"):
        draw_all()
    until = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < until:  # the other worker is being ended
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_figures_are_the_same_bytes_whoever_draws_them() -> None:
    rows = [{"confidence": 0.5, "accuracy": 0.4, "n": 3}]
    made = []
    for workers in (1, 2):
        with FigurePool(workers, for_print=True, note="partial: 1 of 2 patches") as pool:
            figures = [pool.add("a/b", reliability_curve, rows), pool.add("A b", reliability_curve, rows)]
            pool.finish(Silent())
        made.append(({f.name: f.png for f in figures}, dict(pool.files())))
    assert made[0] == made[1]
    assert set(made[0][0]) == {"a-b", "a-b-2"}


HOSTILE = [
    '<script>alert("x")</script>',
    "=cmd|' /C calc'!A0",
    r"\input{/etc/passwd}",
    "a_b & c % $ # {x} ~ ^",
    "|x|\ny",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_every_table(name: str) -> None:
    table = Table("t", name, ["class", "n"], [[name, 1.5], ["b", None]])
    rows = list(csv.reader(io.StringIO(table.csv().decode())))
    assert rows[1][0].lstrip("'") == name
    assert not rows[1][0].startswith(("=", "+", "-", "@"))
    assert rows[2] == ["b", ""]
    lines = table.markdown().decode().splitlines()
    assert len(lines) == 6
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines[2:])
    assert "<script" not in table.markdown().decode().replace("\\<", "")
    text = table.latex().decode()
    assert "\\input" not in text
    assert len(re.findall(r"(?<!\\)&", text)) == 3
    assert r"b & -- \\" in text


def test_numbers_of_tables() -> None:
    table = Table("t", "c", ["x", "n"], [[0.12345, 3], [1.2e-7, 4], [float("nan"), 5]])
    assert table.csv() == b"x,n\n0.12345,3\n1.2e-07,4\n,5\n"
    assert r"0.123 & 3 \\" in table.latex().decode()
    assert "| 1.2e-07 | 4 |" in table.markdown().decode()
    study = [
        ["iou", "ig", 0.0991],
        ["iou", "nt", 0.0992],
        ["iou", "lime", 0.0993],
        ["f1", "ig", 0.5],
        ["f1", "nt", 0.7],
    ]
    digits = Table("t", "c", ["measure", "method", "R1"], study, {2: (2,)}, by=(0,))
    assert r"iou & lime & 0.0993 \\" in digits.latex().decode()
    assert r"f1 & ig & 0.500 \\" in digits.latex().decode()  # a block of its own
    assert [line[-9:] for line in digits.markdown().decode().splitlines()[4:7]] == [f" 0.099{k} |" for k in (1, 2, 3)]
    assert digits.csv().decode().splitlines()[1] == "iou,ig,0.0991"
    runs = Table(
        "t", "c", ["method", "a", "low", "b"], [["ig", 0.0991, 0.05, 0.0993]], dict.fromkeys((1, 2, 3), (1, 3))
    )
    assert r"ig & 0.0991 & 0.0500 & 0.0993 \\" in runs.latex().decode()
    differences = Table("t", "c", ["method", "above"], [["ig", 0.0004], ["nt", -0.1]], {1: (1,)}, differences=(1,))
    assert r"ig & 0.0004 \\" in differences.latex().decode()  # told from 0
    assert escape_latex("100 % of A_1 “x”") == r"100 \% of A\_1 ``x''"


def test_every_citation_has_its_entry() -> None:
    cited = {name: registry.resolve("method", name).citations for name in registry.names("method")}
    assert [name for name, keys in cited.items() if not keys] == ["random"]
    keys = tuple({k for named in cited.values() for k in named} | {"holm1979", "demsar2006", "schuirmann1987"})
    text = bibliography([Sentence("x", keys)]).decode()
    for key in (*keys, "valatkaite2024"):
        assert re.search(rf"^@\w+\{{{key},", text, re.MULTILINE), key
    assert text.count("{") == text.count("}")
    assert as_markdown([Sentence("We did", ("a", "b"))]) == b"We did [@a; @b].\n"
    assert as_latex([Sentence("50 %", ("a", "b"))]) == b"50 \\%~\\cite{a,b}.\n"
