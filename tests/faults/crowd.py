"""Commands as processes that cost no start-up: forked from a server that has everything imported.

The server has run nothing, so its children may use threads of their own; each uses one.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [
    *("torch", "captum.attr", "lime.lime_image", "pytorch_grad_cam", "skimage.segmentation", "sklearn.linear_model"),
    *(f"histoxai.stages.{s}" for s in ("ingest", "masks", "explain", "score")),
    *("histoxai.cli", "histoxai.models.unet", "histoxai.models.classifiers", "tests.faults.crowd"),
]


def start(arguments: list[object], log: Path) -> BaseProcess:
    """Start a command; its stdout and stderr are appended to `log`."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the server imports torch
    _CONTEXT.set_forkserver_preload(_PRELOAD)
    process = _CONTEXT.Process(target=_run, args=([*map(str, arguments), "--threads", "1"], str(log), {**os.environ}))
    process.start()
    return process


def _run(arguments: list[str], log: str, environ: dict[str, str]) -> None:
    os.environ.update(environ)  # the server's own is of when it was started
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["histoxai", *arguments]
    from histoxai.__main__ import main
    from histoxai.store import kept

    kept.KEEP_EVERY = 0.05  # pieces too are written, so that they can be torn
    main()
