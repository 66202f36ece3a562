"""Decide from the validation losses so far when training ends: nothing is counted that a resumed run could lose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from histoxai.settings import Training


def has_ended(settings: Training, validation_losses: Sequence[float]) -> bool:
    """Whether training ends after these epochs: all are done, or the stopping rule has counted `patience` of them."""
    done = len(validation_losses) >= settings.most_epochs
    return done or _RULES[settings.stop_rule](validation_losses) >= settings.patience


def epochs_since_lowest(losses: Sequence[float]) -> int:
    """Count the epochs after the one with the lowest loss, which is the first of several."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def thesis_count(losses: Sequence[float]) -> int:
    """Count epochs as the study's code does: those in a row that stay beside the lowest loss.

    An epoch counts where its loss is no new minimum and the lowest loss so far is not below that of the epoch before;
    any other epoch sets the count to 0. An epoch behind one that is no minimum never counts. So the count passes 1 only
    where losses repeat the minimum exactly.
    """
    count, lowest, before = 0, float("inf"), float("inf")
    for loss in losses:
        stays = loss >= lowest and lowest >= before
        count, lowest, before = count + 1 if stays else 0, min(lowest, loss), loss
    return count


_RULES: dict[str, Callable[[Sequence[float]], int]] = {"patience": epochs_since_lowest, "thesis": thesis_count}
