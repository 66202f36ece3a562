"""The report: its numbers, its choice of patches, and that it stands alone."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from histoxai.report.figures.maps import MaskedPatch, overlay
from histoxai.report.figures.style import OVERLAY_COLOURS
from histoxai.report.sections.base import pick_examples
from histoxai.store.shards import Store
from tests.conftest import FAST, Mini, array_files, done, run, shows, without_seal, write_diagset


class _Tables(HTMLParser):
    """All tables of a page as rows of cell texts; small print (`sub`) is kept after a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "sub" and self._cell is not None:
            self._cell.append("|")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def page(mini: Mini) -> str:
    return (mini.report / "index.html").read_text()


def test_page_json_and_data_zarr_have_the_same_numbers(mini: Mini) -> None:
    parser = _Tables()
    parser.feed(page(mini))
    data = Store(mini.report / "data.zarr")
    axes, means, undefined = data.header["axes"], data.read("table6_mean"), data.read("table6_undefined")
    dense = [t for t in parser.tables if t[0][1:] == ["corrected", "thesis"]]
    assert len(dense) == 2
    for p, profile in enumerate(axes["profile"]):
        command = ["score", mini.maps, "--masks", mini.masks, "-o", mini.scores, "--json", "--profile", profile]
        rows = json.loads(done(*command))["rows"]
        by = {(r["mask"], r["metric"], r["method"], r["class"]): r for r in rows if r["case"] == "all"}
        cases = {(r["mask"], r["metric"], r["method"], r["class"], r["case"]): r for r in rows if r["case"] != "all"}
        for j, mask in enumerate(axes["mask"]):
            body = dense[j][2:]
            for k, metric in enumerate(axes["metric"]):
                for i, method in enumerate(axes["method"]):
                    cells = body[k * len(axes["method"]) + i][2:]
                    for c, name in enumerate(axes["class"]):
                        row = by[mask, metric, method, name]
                        stored = means[p, j, k, i, c]
                        want = np.nan if row["mean"] is None else row["mean"]
                        np.testing.assert_allclose(stored, want, rtol=0, atol=1e-12)
                        assert undefined[p, j, k, i, c] == row["undefined"]
                        shown, _, small = cells[p * len(axes["class"]) + c].partition("|")
                        assert shows(shown.strip(), row["mean"])
                        assert int(small or 0) == row["undefined"]
                        for n, case in enumerate("1234"):
                            of_case = cases[mask, metric, method, name, case]
                            got = data.read("case_mean")[p, j, k, i, c, n]
                            np.testing.assert_allclose(got, np.nan if of_case["mean"] is None else of_case["mean"])


def test_other_tables_of_the_page(mini: Mini) -> None:
    parser = _Tables()
    parser.feed(page(mini))
    plan = json.loads(done("augment", mini.patches, "--plan", "--json"))["table"]
    counts = next(t for t in parser.tables if t[0][:2] == ["class", "patches"])
    assert counts[1:] == [[str(v) for v in row.values()] for row in plan]
    facts = json.loads((mini.cls / "run.json").read_text())["metrics"]
    accuracy = next(t for t in parser.tables if t[0][:3] == ["class", "patches", "accuracy"])
    shown = {r[0]: r[2] for r in accuracy[1:]}
    for name, row in facts["per_class"].items():
        assert shown[name] == f"{100 * row['accuracy']:.1f} %"
    assert shown["mean of classes"] == f"{100 * facts['mean_class_accuracy']:.1f} %"
    data = Store(mini.report / "data.zarr")
    assert data.read("confusion").tolist() == facts["confusion"]
    assert data.read("table1_train").tolist() == [r["train"] for r in plan]
    assert data.read("classifier_epoch").tolist() == [1, 2, 3]
    # PanNuke's folds 1 and 2, and fold 3, of four patches each
    segmenter = next(t for t in parser.tables if t[0] == ["split", "patches"])
    assert segmenter[1:] == [["train", "8"], ["validation", "4"]]
    assert data.read("table2_split").tolist() == ["train", "validation"]
    assert data.read("table2_patches").tolist() == [8, 4]


def test_the_page_stands_alone(mini: Mini) -> None:
    text = page(mini)
    sources = re.findall(r'(?:src|href)="([^"]{0,60})', text)
    assert sources
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert "url(" not in text
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert [about for about, _ in scripts] == [' type="application/json" id="data"', ""]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    policy = html.unescape(text)
    assert f"script-src 'sha256-{digest}'" in policy  # and so no other script can run
    assert "default-src 'none'" in policy
    images = text.count("<img")
    absent = text.count("no such patch among the explained ones")
    ranks = text.count("Mean ranks of the methods")
    sizes = text.count("By the size of the")
    assert sizes in (1, 2)  # one for each mask that any patch has
    violins = [text.count(f"in the {profile} profile by class, method and mask") for profile in ("corrected", "thesis")]
    same = re.findall(r"has the same values in both profiles: (.*?)\.</p>", text)
    assert violins == [7, 7 - len(same[0].split(", ")) if same else 7]
    # curves twice, confusion, reliability, forest, agreement; measures; methods; cases; thresholds of two masks
    assert images + absent == 6 + sum(violins) + 4 + 4 + 2 + sizes + ranks
    assert len(re.findall(r'<img[^>]*alt="[^"]{10,}"', text)) == images
    assert len(text) < 25e6


@pytest.mark.slow
def test_same_stores_same_page(mini: Mini, tmp_path: Path) -> None:
    for workers in (1, 3):
        done("report", mini.scores, "-o", tmp_path / f"r{workers}", "--workers", workers)
        assert (tmp_path / f"r{workers}/index.html").read_bytes() == (mini.report / "index.html").read_bytes()
        assert array_files(tmp_path / f"r{workers}/data.zarr") == array_files(mini.report / "data.zarr")


@pytest.mark.slow
def test_what_a_page_has_no_room_for_is_said(mini: Mini, tmp_path: Path) -> None:
    wanted = str(Store(mini.scores).read("patch_id")[5])
    outcome = run("report", mini.scores, "-o", tmp_path / "small", "--limit", 1, "--show", wanted)
    assert outcome.code == 0
    said = outcome.err.replace("\n", " ")
    assert f"--show {wanted}: has no room below 1 MB; raise --limit" in said
    size = (tmp_path / "small/index.html").stat().st_size / 1e6
    about = re.search(r"the page has about (\d+) MB without any patch to look at", said)
    assert about
    assert abs(int(about[1]) - size) < 1
    done("report", mini.scores, "-o", tmp_path / "one", "--examples", 0, "--show", wanted, "--workers", 1)
    data = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "one/index.html").read_text())[1])
    assert [data["points"]["id"][p["point"]] for p in data["explorer"]["patches"]] == [wanted]
    assert run("report", mini.scores, "-o", tmp_path / "x", "--show", "nobody").code == 2
    assert not (tmp_path / "x").exists()


def test_every_command_to_repeat_it_is_there(mini: Mini) -> None:
    text = html.unescape(page(mini))
    block = text[text.index('<ol class="commands">') :]
    lines = re.findall(r"<code>(.*?)</code>", block[: block.index("</ol>")])
    verbs = [line.split()[1] for line in lines]
    assert verbs == ["ingest", "augment", "train-cls", "ingest", "train-seg", "masks", "explain", "score"]
    for line, made in zip(
        lines, ("patches", "balanced", "cls", "nuclei", "seg", "masks", "maps", "scores"), strict=True
    ):
        assert f"-o {getattr(mini, made)}" in line


@pytest.mark.slow
def test_no_patch_has_a_mask(mini: Mini, tmp_path: Path) -> None:
    done("score", mini.maps, "--masks", mini.masks, "-o", tmp_path / "s", "--mask-threshold", 0.99999999)
    assert not Store(tmp_path / "s").read("counts")[..., [0, 2]].any()
    done("report", tmp_path / "s", "-o", tmp_path / "r", "--export", tmp_path / "paper")
    text = (tmp_path / "r/index.html").read_text()
    assert "No answer: pixel AUROC is undefined for every method (no tumor mask, or nothing but it)." in text
    assert "By the size of the" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    auroc = data["table"]["words"]["metric"].index("auroc")
    columns = data["table"]["columns"]
    assert {m for m, k in zip(columns["mean"], columns["metric"], strict=True) if k == auroc} == {None}


def test_selection_rule() -> None:
    label = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1])
    predicted = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    probability = np.array([0.7, 0.9, 0.5, 0.4, 0.6, 0.8, 0.3, 0.2, 0.65])
    case = np.array([1, 1, 2, 2, 3, 3, 4, 4, 1])
    assert pick_examples(label, predicted, probability, case, [0, 1]) == [[1, 8], [3, None], [5, None], [7, None]]


def test_overlay_colours_are_the_studys_where_asked() -> None:
    image = np.full((1, 5, 3), [50, 100, 150], np.uint8)
    above = np.array([[1, 0, 0, 1, 0]], bool)
    tumor = np.array([[0, 1, 0, 1, 0]], bool)
    other = np.array([[0, 0, 1, 0, 0]], bool)
    study = {"map": (0, 200, 0), "tumor": (230, 0, 0), "non_tumor": (30, 60, 255), "map and tumor": (255, 235, 0)}
    # the study's colours lie on the patch as it is, the others on grey
    for colours, palette, ground in (
        ("study", study, [50, 100, 150]),
        ("safe", OVERLAY_COLOURS["safe"], [100, 100, 100]),
    ):
        made = overlay(MaskedPatch("", image, tumor, other), above, colours)[0]
        for at, name in enumerate(study):
            assert made[at].tolist() == np.round(0.45 * np.array(ground) + 0.55 * np.array(palette[name])).tolist()
        assert made[4].tolist() == ground


def test_hostile_names_show_as_text(mini: Mini, tmp_path: Path) -> None:
    title = '<script>alert("x")</script>'
    done("report", mini.scores, "-o", tmp_path / "r", "--title", title)
    text = (tmp_path / "r" / "index.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text


def test_moved_and_changed_parents(mini: Mini, tmp_path: Path) -> None:
    for name in ("scores", "maps", "masks", "balanced"):
        shutil.copytree(getattr(mini, name), tmp_path / f"{name}.zarr")
    outcome = run("report", tmp_path / "scores.zarr", "-o", tmp_path / "r")
    assert outcome.code == 3
    assert "--model" in outcome.err
    done("report", tmp_path / "scores.zarr", "-o", tmp_path / "r", "--model", mini.cls, "--segmenter", mini.seg)
    assert run("report", tmp_path / "scores.zarr", "-o", tmp_path / "q", "--model", mini.seg).code == 3
    record = next((tmp_path / "maps.zarr" / "_done" / "nt").glob("[0-9]*.json"))
    facts = json.loads(record.read_text())
    facts["files"][0]["checksum"] = "0" * 32
    record.write_text(json.dumps(facts))
    outcome = run("report", tmp_path / "scores.zarr", "-o", tmp_path / "q", "--model", mini.cls)
    assert outcome.code == 3
    assert "is not the maps that" in outcome.err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("x")
    assert run("report", mini.scores, "-o", tmp_path / "full").code == 3


def test_one_class_one_method_two_patches(mini: Mini, tmp_path: Path) -> None:
    source = write_diagset(tmp_path / "d", scans=4, per_class=2)
    done("ingest", source, "-o", tmp_path / "p", "--classes", "N", "--mpp", 0.25)
    done("augment", tmp_path / "p", "-o", tmp_path / "b")
    done("train-cls", tmp_path / "b", "-o", tmp_path / "cls", "--epochs", 1, "--batch-size", 4)
    done("masks", tmp_path / "b", "--model", mini.seg, "-o", tmp_path / "masks")
    options = FAST[:2]
    explain = ["explain", tmp_path / "b", "--model", tmp_path / "cls", "-o", tmp_path / "maps", *options]
    done(*explain, "--method", "ig", "--per-class", 2)
    done("score", tmp_path / "maps", "--masks", tmp_path / "masks", "-o", tmp_path / "s")
    done("report", tmp_path / "s", "-o", tmp_path / "r")
    assert "2 explained patches" in (tmp_path / "r" / "index.html").read_text()


def test_the_evidence_of_the_page_is_that_of_score(mini: Mini) -> None:
    parser = _Tables()
    parser.feed(page(mini))
    out = json.loads(done("score", mini.maps, "--masks", mini.masks, "-o", mini.scores, "--json"))
    primary = out["statistics"]["primary"]
    rows = [r for r in out["rows"] if (r["metric"], r["class"], r["case"]) == (primary, "all", "all")]
    shown = [t for t in parser.tables if t[0][:2] == ["method", "mean"]]
    data = Store(mini.report / "data.zarr")
    assert len(shown) == 2
    for table, mask in zip(shown, ("tumor", "non_tumor"), strict=True):
        for line, row in zip(table[1:], [r for r in rows if r["mask"] == mask], strict=True):
            assert line[0] == row["method"]
            assert shows(line[1], row["mean"])
            assert shows(line[4], row["above_chance"]["mean"])
            assert line[7:] == [str(row["n"]), str(row["undefined"])]
    means = np.array([np.nan if r["mean"] is None else r["mean"] for r in rows])
    np.testing.assert_allclose(data.read("primary_mean"), means, atol=1e-12)
    assert data.read("primary_method").tolist() == [r["method"] for r in rows]
    conclusions = next(t for t in parser.tables if t[0][0] == "conclusion")
    keys = ("claim", "answer", "words", "measure", "study_measure")
    assert conclusions[1:] == [[c[k] for k in keys] for c in out["conclusions"]]
    assert data.read("conclusion_answer").tolist() == [c["answer"] for c in out["conclusions"]]


@pytest.mark.slow
def test_export_writes_what_the_page_shows(mini: Mini, tmp_path: Path) -> None:
    before = (mini.report / "index.html").stat().st_mtime_ns
    summary = json.loads(done("report", mini.scores, "-o", mini.report, "--export", tmp_path / "paper", "--json"))
    assert summary["export"] == str(tmp_path / "paper")
    assert (mini.report / "index.html").stat().st_mtime_ns == before  # it was there
    names = {p.relative_to(tmp_path / "paper").as_posix() for p in (tmp_path / "paper").rglob("*") if p.is_file()}
    assert {"methods.md", "methods.tex", "references.bib", "export.json"} <= names
    stems = {n.rsplit(".", 1)[0] for n in names if n.startswith("tables/")}
    assert {f"{s}.{e}" for s in stems for e in ("csv", "tex", "md")} <= names
    assert stems >= {f"tables/{n}" for n in ("table1-classes", "table4-accuracy", "table6-tumor", "chance-tumor")}
    drawn = {n.rsplit(".", 1)[0] for n in names if n.startswith("figures/")}
    assert {f"{s}.{e}" for s in drawn for e in ("svg", "pdf", "png")} <= names
    assert len(drawn) == page(mini).count("<img")  # every figure of the page, and no other
    rows = list(csv.DictReader((tmp_path / "paper/tables/chance-tumor.csv").open()))
    data = Store(mini.report / "data.zarr")
    tumor = data.read("primary_mask") == "tumor"
    assert [float(r["mean"] or "nan") for r in rows] == pytest.approx(data.read("primary_mean")[tumor], nan_ok=True)
    text = (tmp_path / "paper/methods.md").read_text()
    cited = set(re.findall(r"@(\w+)", text))
    assert {"sundararajan2017", "ribeiro2016", "selvaraju2017", "holm1979"} <= cited
    entries = set(re.findall(r"^@\w+\{(\w+),", (tmp_path / "paper/references.bib").read_text(), re.MULTILINE))
    assert cited <= entries
    assert "ig was computed with steps = 8, baseline = 0.0" in text
    assert "thesis-cnn, was trained with Adam (learning rate 0.001, batches of 8, seed 0) for 3 epochs" in text


def test_a_classifier_of_before_its_scores_were_measured(mini: Mini, tmp_path: Path) -> None:
    shutil.copytree(mini.root, tmp_path / "old")
    old = Mini(tmp_path / "old")
    facts = without_seal(old.cls / "run.json")
    del facts["metrics"]["scores"], facts["training"]
    shutil.rmtree(old.nuclei)
    (old.cls / "run.json").write_text(json.dumps(facts))
    done("report", old.scores, "-o", tmp_path / "r")
    text = (tmp_path / "r/index.html").read_text()
    assert "Reliability curve" not in text
    assert "(the study's table 2) is not known: their store is gone or has changed" in html.unescape(text)
    assert f"{100 * facts['metrics']['accuracy']:.1f} %" in text


@pytest.mark.slow
def test_an_export_keeps_to_its_own_files(mini: Mini, tmp_path: Path) -> None:
    paper = tmp_path / "paper"
    paper.mkdir()
    (paper / "references.bib").write_text("mine")
    outcome = run("report", mini.scores, "-o", mini.report, "--export", paper)
    assert outcome.code == 3
    assert "holds references.bib, which no export wrote" in outcome.err.replace("\n", " ")
    assert (paper / "references.bib").read_text() == "mine"
    (paper / "references.bib").unlink()
    (paper / "tables").mkdir()
    (paper / "tables/old.csv").write_text("of an earlier export")
    (paper / "export.json").write_text(json.dumps({"schema": "export/1", "files": ["tables/old.csv"]}))
    done("report", mini.scores, "-o", mini.report, "--export", paper)
    assert not (paper / "tables/old.csv").exists()
    assert (paper / "references.bib").exists()
    for inside in (mini.maps, mini.balanced, mini.cls):
        assert run("report", mini.scores, "-o", mini.report, "--export", inside).code == 3


def test_an_export_that_cannot_be_written_is_refused(mini: Mini, tmp_path: Path) -> None:
    outcome = run("report", mini.scores, "-o", tmp_path / "r", "--export", mini.scores / "x")
    assert outcome.code == 3
    assert not (tmp_path / "r").exists()
    (tmp_path / "file").write_text("x")
    assert run("report", mini.scores, "-o", tmp_path / "r", "--export", tmp_path / "file").code == 3
