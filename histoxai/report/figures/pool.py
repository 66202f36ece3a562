"""Draw the figures of a report, several at a time, as PNG for the page and optionally as files for print."""

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
from histoxai.report.figures.style import print_formats, to_png, with_note

_KILLED = "a process that draws figures was killed (out of memory?); try again with --workers 1"
_POLL_SECONDS = 0.5


class PageFigure:
    """A figure of the page; its `png` exists once `FigurePool.finish` has returned."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.formats: dict[str, bytes] = {}

    @property
    def png(self) -> bytes:
        """The PNG bytes that the page embeds."""
        return self.formats["page"]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of `png` in pixels, read from its header."""
        return struct.unpack(">II", self.png[16:24])


class FigurePool:
    """Draws figures under unique names; as a context manager it ends its processes.

    workers: processes that draw; one draws in this process. for_print: draw SVG, PDF and large PNG too, for `files`.
    note: text above every figure, in red. The number of processes changes no figure.
    """

    def __init__(self, workers: int = 1, for_print: bool = False, note: str = "") -> None:
        self._for_print, self._note = for_print, note
        self._figures: dict[str, PageFigure] = {}
        self._running: dict[Future[dict[str, bytes]], PageFigure] = {}
        self._pool = ProcessPoolExecutor(workers, spawn_context(), initializer=_set_signals) if workers > 1 else None

    def __enter__(self) -> FigurePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._figures)

    def add(self, name: str, draw: Callable[..., Figure], *arguments: Any) -> PageFigure:
        """Draw the figure of `draw(*arguments)`; `draw` is a module's function, since another process may call it.

        name: of the figure's files; made safe and unique. Raises HistoxaiError if a process was killed.
        """
        name = self._unique(name)
        figure = self._figures[name] = PageFigure(name)
        job = (self._note, self._for_print, draw, *arguments)
        if self._pool is None:
            figure.formats = _draw(*job)
        else:
            try:
                self._running[self._pool.submit(_draw, *job)] = figure
            except BrokenProcessPool:
                raise HistoxaiError(_KILLED) from None
        return figure

    def _unique(self, name: str) -> str:
        safe = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "figure"
        name, number = safe, 1
        while name in self._figures:
            number += 1
            name = f"{safe}-{number}"
        return name

    def finish(self, progress: Progress) -> None:
        """Wait until everything is drawn.

        Raises HistoxaiError if a process was killed.
        """
        progress.start("figures", len(self), len(self) - len(self._running))
        while self._running:
            # with a time limit, so that a signal is noticed
            done, _ = wait(self._running, _POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                try:
                    self._running.pop(future).formats = future.result()
                except BrokenProcessPool:
                    raise HistoxaiError(_KILLED) from None
                progress.advance()
        progress.stop()

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of every figure as svg, pdf and png of 300 dpi."""
        for name, figure in self._figures.items():
            for ending, data in figure.formats.items():
                if ending != "page":
                    yield f"{name}.{ending}", data

    @property
    def page_bytes(self) -> int:
        """Bytes of all PNGs that the page embeds."""
        return sum(len(figure.png) for figure in self._figures.values())


def _set_signals() -> None:
    # The parent handles interrupts and stops its workers with SIGTERM; without a parent a worker must end.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signals.die_with_parent(signal.SIGKILL)


def _draw(note: str, for_print: bool, draw: Callable[..., Figure], *arguments: Any) -> dict[str, bytes]:
    figure = with_note(draw(*arguments), note)
    formats = {"page": to_png(figure)}
    return formats | print_formats(figure) if for_print else formats
