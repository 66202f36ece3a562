"""README and docs: their commands, flags, recipes and links must exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_docs
import pytest
import typer

from histoxai.cli.app import app
from histoxai.core import registry
from tests.conftest import ROOT, Mini

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every `histoxai ...` command line in a fenced block of any page."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", "\n".join(p.read_text() for p in PAGES), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [m[0] for line in lines for m in re.finditer(r"histoxai [a-z][a-z-]*[^|\"#`]*", line)]


@pytest.mark.parametrize("line", commands())
def test_every_command_and_flag_in_the_docs_exists(line: str) -> None:
    command = COMMANDS[line.split()[1]]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for flag in re.findall(r"(?<!\w)--[a-z][a-z-]*", line):
        assert flag in {*known, "--help"}, f"{line}: {flag}"


def test_generated_tables_are_up_to_date() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [verb for verb in COMMANDS if f"<!-- options: {verb} -->" not in text] == []
    for page in PAGES:
        assert make_docs.generated(page.read_text()) == page.read_text(), f"{page.name}: run scripts/make_docs.py"


def test_links_of_the_docs_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_names_every_command() -> None:
    for verb in (
        "ingest",
        "augment",
        "train-cls",
        "train-seg",
        "masks",
        "predict",
        "explain",
        "score",
        "report",
        "info",
        "audit",
    ):
        assert f"histoxai {verb} " in README
    for name in registry.names("format"):
        assert name in README.lower()


def test_every_method_is_in_the_docs() -> None:
    methods = registry.names("method")
    assert f"{len(methods)} methods" in README
    page = (ROOT / "docs" / "explain.md").read_text()
    assert [name for name in methods if f"`{name}`" not in page] == []


def test_the_table_of_methods_is_made_from_the_classes() -> None:
    row = "| `gradcam` | GradCAM | activation map | Selvaraju et al. 2017, arXiv 1610.02391 |"
    assert row in (ROOT / "docs" / "explain.md").read_text()


def recipes(page: str) -> list[str]:
    """The `$score ... | jq ...` commands below the heading "jq", each with its further lines."""
    block = (ROOT / "docs" / page).read_text().split("## jq")[1].split("```sh\n")[1].split("```")[0]
    lines = "\n".join(line for line in block.splitlines() if not line.startswith("#"))
    return re.findall(r"^\$score.*(?:\n(?!\$score).+)*", lines, re.MULTILINE)


@pytest.mark.parametrize(("page", "count"), [("json.md", 3), ("score.md", 8)], ids=["json", "score"])
def test_jq_recipes_run(mini: Mini, page: str, count: int) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    lines = recipes(page)
    assert len(lines) == count
    score = f"{sys.executable} -m histoxai score {mini.maps} --masks {mini.masks} -o {mini.scores} --repetitions 100"
    for line in lines:
        result = subprocess.run(
            ["bash", "-c", line.replace("$score", score)], capture_output=True, text=True, check=True
        )
        assert result.stdout.strip()
        assert result.stdout.strip() != "[]"


def test_readme_is_short_and_index_names_every_page() -> None:
    assert len(README.splitlines()) <= 90
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_lines_have_at_most_120_characters(page: Path) -> None:
    long = [n for n, line in enumerate(page.read_text().splitlines(), 1) if len(line) > 120 and line[:1] != "|"]
    assert long == []


def test_no_page_names_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(home|root)/\w", page.read_text()), page
