"""What the code may not do, read from its syntax: unpickle, evaluate text, run a shell, unpack archives."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "histoxai").rglob("*.py"))
# modules that run code out of data, or write where an archive says
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "tarfile",
    "zipfile",
    "code",
    "xmlrpc",
}
CALLS = {
    *("eval", "exec", "compile", "os.system", "os.popen", "shutil.unpack_archive", "torch.hub.load", "yaml.load"),
    *("tempfile.mktemp", "pandas.read_pickle", "np.fromregex", "importlib.util.spec_from_file_location"),
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def faults(source: str) -> Iterator[str]:
    """What a file does that it may not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"imports {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"imports {node.module}"
        elif isinstance(node, ast.Call):
            name, flags = dotted(node.func), {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if name in CALLS:
                yield f"calls {name}"
            if name == "torch.load" and flags.get("weights_only") is not True:
                yield "calls torch.load without weights_only=True"
            if name in ("np.load", "numpy.load") and flags.get("allow_pickle") is not False:
                yield "calls np.load without allow_pickle=False"
            if flags.get("shell"):
                yield "runs a shell"
            if flags.get("autoescape") is False:
                yield "makes pages without escaping"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT / "histoxai").as_posix())
def test_no_code_runs_what_it_reads(path: Path) -> None:
    assert list(faults(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval(x)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "import tarfile",
    ],
)
def test_the_test_sees(source: str) -> None:
    assert len(list(faults(source))) == 1
