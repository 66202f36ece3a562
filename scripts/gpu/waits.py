"""List the calls in hot loops that wait for the device, each with its reason: `python -m gpu.waits`.

A call waits where a value is copied to the host (`cpu`, `item`, `tolist`) or where it says so (`synchronize`). Its line
ends in `# waits: REASON`; a test fails where it does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOT = (
    "histoxai/explain/bases/*.py",
    "histoxai/explain/methods/*.py",
    "histoxai/explain/network.py",
    "histoxai/networks/inference.py",
    "histoxai/score/replaced_pixels.py",
    "histoxai/train/loop.py",
    "histoxai/train/state.py",
)
CALLS = ("cpu", "item", "synchronize")
# Functions that call a library as its authors do.
COMPARISONS = ("library", "_of_library", "compute_cam_per_layer")


@dataclass(frozen=True)
class Wait:
    """One line with a call that waits; reason: empty where none is given."""

    file: str
    line: int
    function: str
    code: str
    reason: str


def waits() -> list[Wait]:
    """Return all lines with a call that waits, in the order of files and lines."""
    return [wait for pattern in HOT for path in sorted(ROOT.glob(pattern)) for wait in _of_file(path)]


def _of_file(path: Path) -> Iterator[Wait]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for number, function in sorted(set(_calls(ast.parse(text), ""))):
        code, _, reason = lines[number - 1].partition("  # waits: ")
        yield Wait(path.relative_to(ROOT).as_posix(), number, function, code.strip(), reason.strip())


def _calls(node: ast.AST, function: str) -> Iterator[tuple[int, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            if child.name not in COMPARISONS:
                yield from _calls(child, child.name)
            continue
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr in CALLS:
            assert child.end_lineno is not None
            yield child.end_lineno, function
        yield from _calls(child, function)


def markdown() -> str:
    """Return the table of docs/gpu.md; line numbers, which change often, are what the command prints."""
    rows = dict.fromkeys(f"| `{w.file}` | `{w.function}` | {w.reason} |" for w in waits())
    return "\n".join(["| file | function | why it waits |", "|---|---|---|", *rows])


if __name__ == "__main__":
    for wait in waits():
        print(f"{wait.file}:{wait.line}: {wait.reason or 'NO REASON'}: {wait.code}")
