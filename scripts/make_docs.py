"""Write the generated tables of the docs, which stand between `<!-- TABLE: NAME -->` and `<!-- end -->`.

`python scripts/make_docs.py` rewrites the pages; a test fails where one is out of date.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from benches import counts
from gpu import waits

from histoxai.cli.app import app
from histoxai.cli.command import metavar_of, panels
from histoxai.explain.catalogue import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
_MARKED = re.compile(r"(<!-- (\w+): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def option_table(verb: str) -> str:
    """Return the Markdown tables of a verb's options, one a panel, with defaults and variables."""
    command: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    lines = []
    for panel, parameters in panels(command.params):
        lines += ["", f"**{panel}**", "", "| option | meaning | variable |", "|---|---|---|"]
        lines += [_row(verb, parameter) for parameter in parameters]
    return "\n".join([*lines, "", ""])


def _row(verb: str, parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{metavar_of(parameter)}` | {_cell(parameter.help)} | |"
    names = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
    value = metavar_of(parameter)
    variable = f"HISTOXAI_{verb}_{parameter.name}".upper().replace("-", "_")
    return f"| {names}{f' {value}' if value else ''} | {_cell(parameter.help)} | `{parameter.envvar or variable}` |"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


TABLES = {"options": option_table, "table": lambda name: LISTS[name]() + "\n"}
LISTS = {"methods": markdown_table, "waits": waits.markdown, "roofline": counts.markdown}


def generated(page: str) -> str:
    """Return the text of a page with its generated parts made anew."""
    return _MARKED.sub(lambda found: found[1] + TABLES[found[2]](found[3]) + found[4], page)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := generated(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(path.name)
