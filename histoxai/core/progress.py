"""Report the progress of stages, whoever displays it."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """Receives a stage's progress and messages, and displays nothing; `cli.progress_display` derives what does."""

    def start(self, what: str, total: int | None, done: int = 0) -> None:
        """Start a task of `total` steps (None: unknown), `done` of them finished; ends the task before it."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more as done; `note` is displayed behind the bar."""

    def stop(self) -> None:
        """End the running task."""

    def row(self, cells: Mapping[str, str]) -> None:
        """Add a row to the running task's table: column -> text, with the same columns every time."""

    def say(self, message: str) -> None:
        """Print one line of information."""

    def warn(self, message: str) -> None:
        """Print one line that the user should read."""

    def news(self, message: str) -> None:
        """Print one line about an event during the work, such as a smaller micro-batch; worker processes relay it."""


class Silent(Progress):
    """Displays nothing; collects warnings in `warnings`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def news(self, message: str) -> None:
        self.warn(message)
