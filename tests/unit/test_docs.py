"""README and docs: their commands, flags, recipes and links must exist."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys

import pytest

from histoxai.core import registry
from tests.conftest import ROOT, Mini, run

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every `histoxai ...` command line in a fenced block of any page."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", "\n".join(p.read_text() for p in PAGES), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [m[0] for line in lines for m in re.finditer(r"histoxai [a-z][a-z-]*[^|\"#`]*", line)]


@pytest.mark.parametrize("line", commands())
def test_every_command_and_flag_in_the_docs_exists(line: str) -> None:
    verb = line.split()[1]
    help_text = run(verb, "--help")
    assert help_text.code == 0, line
    for flag in re.findall(r"(?<!\w)--[a-z][a-z-]*", line):
        assert flag in help_text.out, f"{line}: {flag}"


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


def test_tables_that_are_made_from_the_code_are_current() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_docs_tables.py"))
    stale = [path.name for path in script["PAGES"] if script["with_tables"](path.read_text()) != path.read_text()]
    assert stale == [], "run `python scripts/write_docs_tables.py`"
    assert (
        "| `gradcam` | GradCAM | activation map | Selvaraju et al. 2017, arXiv 1610.02391 |"
        in (ROOT / "docs" / "explain.md").read_text()
    )


@pytest.mark.parametrize(
    ("page", "count"), [(README, 3), ((ROOT / "docs/score.md").read_text(), 8)], ids=["README", "score"]
)
def test_jq_recipes_run(mini: Mini, page: str, count: int) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    page = page.split("## jq")[1].split("```sh\n")[1].split("```")[0]
    lines = [line for line in page.splitlines() if line.startswith("$score")]
    assert len(lines) == count
    score = f"{sys.executable} -m histoxai score {mini.maps} --masks {mini.masks} -o {mini.scores} --repetitions 100"
    for line in lines:
        result = subprocess.run(
            ["bash", "-c", line.replace("$score", score)], capture_output=True, text=True, check=True
        )
        assert result.stdout.strip()
        assert result.stdout.strip() != "[]"


def test_no_page_names_a_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(home|root)/\w", page.read_text()), page
