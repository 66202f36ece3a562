"""The figures of a report: drawn once, several at a time, on the page as PNG and for print where that is asked for."""

from __future__ import annotations

import re
import signal
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from matplotlib.figure import Figure

from histoxai.core import signals
from histoxai.core.child_process import spawn_context
from histoxai.core.errors import HistoxaiError
from histoxai.core.progress import Progress
from histoxai.report.figures.figures import for_print, marked, png

Draw = Callable[..., Figure]
_KILLED = "a process that draws figures was killed (out of memory?); try again with --workers 1"


class Picture:
    """A figure of the page that is being drawn; `png` is there once `Gallery.finish` is through."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.forms: dict[str, bytes] = {}

    @property
    def png(self) -> bytes:
        """As the page has it."""
        return self.forms["page"]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of that, in pixels."""
        return struct.unpack(">II", self.png[16:24])  # where the format has them


class Gallery:
    """Figures by name, in the order in which they were asked for; a context, which ends its processes.

    workers: processes; with one, everything is drawn here. keep: draw for print too, for `files`. mark: words above
    every figure, in red. No figure depends on how many processes there are.
    """

    def __init__(self, workers: int = 1, keep: bool = False, mark: str = "") -> None:
        self._keep, self._mark = keep, mark
        self._pictures: dict[str, Picture] = {}
        self._waiting: dict[Future[dict[str, bytes]], Picture] = {}
        self._pool = ProcessPoolExecutor(workers, spawn_context(), initializer=_begin) if workers > 1 else None

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, name: str, draw: Draw, *arguments: Any) -> Picture:
        """Have a figure drawn: `draw(*arguments)`, a function of a module, since another process may call it.

        name: of its files, made safe and unlike all others.
        """
        safe = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "figure"
        name, number = safe, 1
        while name in self._pictures:
            number += 1
            name = f"{safe}-{number}"
        picture = self._pictures[name] = Picture(name)
        job = (self._mark, self._keep, draw, *arguments)
        if self._pool is None:
            picture.forms = _drawn(*job)
        else:
            try:
                self._waiting[self._pool.submit(_drawn, *job)] = picture
            except BrokenProcessPool:
                raise HistoxaiError(_KILLED) from None
        return picture

    def finish(self, progress: Progress) -> None:
        """Wait until everything is drawn.

        Raises HistoxaiError where a process was killed.
        """
        progress.start("figures", len(self), len(self) - len(self._waiting))
        while self._waiting:
            # with a time limit, so that a signal is noticed
            done, _ = wait(self._waiting, 0.5, FIRST_COMPLETED)
            for future in done:
                try:
                    self._waiting.pop(future).forms = future.result()
                except BrokenProcessPool:
                    raise HistoxaiError(_KILLED) from None
                progress.advance()
        progress.stop()

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every figure as svg, pdf and png of 300 dpi."""
        for name, picture in self._pictures.items():
            for ending, data in picture.forms.items():
                if ending != "page":
                    yield f"{name}.{ending}", data

    @property
    def size(self) -> int:
        """Bytes of all figures as the page has them."""
        return sum(len(p.png) for p in self._pictures.values())


def _begin() -> None:
    # The parent decides when to stop, and then sends SIGTERM; where it is gone there is nobody to draw for.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signals.die_with_parent(signal.SIGKILL)


def _drawn(mark: str, keep: bool, draw: Draw, *arguments: Any) -> dict[str, bytes]:
    with marked(mark):
        figure = draw(*arguments)
        forms = {"page": png(figure)}
        return forms | for_print(figure) if keep else forms
