"""Commands as processes that cost no start-up: forked from a server that has everything imported.

The server has run nothing, so its children may use threads of their own; each uses one. Where a C compiler is there,
the shim is loaded into it: a child can be told to die, or to be refused, at its k-th call to the file system.
"""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing.context
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

_PRELOAD = [
    *("torch", "captum.attr", "lime.lime_image", "pytorch_grad_cam", "skimage.segmentation", "sklearn.linear_model"),
    *(f"histoxai.stages.{s}" for s in ("ingest", "augment", "masks", "explain", "score", "report", "predict")),
    *("histoxai.cli.app", "histoxai.networks.unet", "histoxai.networks.thesis_cnn", "tests.faults.crowd"),
]
NOTHING, KILL, TORN, FAIL, SHORT = range(5)
READS, WRITES = 1, 2


@dataclass(frozen=True)
class Arm:
    """What happens at the `number`-th call below `folder`: see shim.c. journal: where all calls are written down."""

    folder: Path
    number: int = -1
    what: int = NOTHING
    error: int = 0
    kinds: int = WRITES
    journal: Path | None = None


@cache
def shim() -> Path | None:
    """The shim, built once; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="histoxai-shim")) / "shim.so"
    atexit.register(shutil.rmtree, made.parent, ignore_errors=True)
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", made, source, "-ldl"], check=True)
    return made


@cache
def context() -> multiprocessing.context.ForkServerContext:
    """What starts children; its server runs from here on, with everything imported and the shim, if any, loaded."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the server imports torch
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(_PRELOAD)
    library = shim()
    if library is not None:
        os.environ["LD_PRELOAD"] = str(library)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("LD_PRELOAD", None)
    return made


def start(arguments: list[object], log: Path, arm: Arm | None = None) -> BaseProcess:
    """Start a command; its stdout and stderr are appended to `log`."""
    words = [*map(str, arguments), "--threads", "1"]
    process = context().Process(target=_run, args=(words, str(log), dict(os.environ), arm))
    process.start()
    return process


def _run(arguments: list[str], log: str, environ: dict[str, str], arm: Arm | None) -> None:
    os.environ.clear()
    os.environ.update(environ)  # the server's own is of when it was started
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["histoxai", *arguments]
    from histoxai.__main__ import main
    from histoxai.store import partial_shards

    partial_shards.SAVE_INTERVAL = 0.05  # pieces too are written, so that they can be torn
    if arm is not None:
        folder, number, what, error, kinds, journal = astuple(arm)
        ctypes.CDLL(None).shim_arm(
            os.fsencode(folder), ctypes.c_long(number), what, error, kinds, os.fsencode(journal or "")
        )
    main()
