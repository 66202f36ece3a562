"""How stages say what they are doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives what a stage has to say; the terminal has one implementation, `Silent` is another."""

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        """A task of `total` steps (None: unknown) begins, `done` of them behind; it ends the task before it."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` is shown behind the bar."""

    def stop(self) -> None:
        """The running task is over."""

    def row(self, cells: Mapping[str, str]) -> None:
        """A line of the running task's table is done: column -> text, the same columns every time."""

    def say(self, message: str) -> None:
        """One line of information."""

    def warn(self, message: str) -> None:
        """One line that the user should read."""

    def news(self, message: str) -> None:
        """One line about the work itself while it runs, from whichever process has met it."""


class Silent:
    """Says nothing; warnings are kept in `warnings`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        pass

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass

    def stop(self) -> None:
        pass

    def row(self, cells: Mapping[str, str]) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def news(self, message: str) -> None:
        self.warn(message)
