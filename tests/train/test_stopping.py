"""When training ends: two rules on curves worked by hand, in the loop, and in a run that was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from histoxai.core.errors import UsageError
from histoxai.core.progress import Silent
from histoxai.settings import TrainCls, Training, TrainSeg
from histoxai.train.schedules import LearningRates
from histoxai.train.stopping import epochs_since_lowest, has_ended, thesis_count
from tests.train.test_loop import job, same, settings, trained

RISES = [1.0, 0.8, 0.7, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]  # falls for 4 epochs, then rises
STAYS = [1.0, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
RETURNS = [1.0, 0.5, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("losses", "plain", "thesis"),
    [
        # the count after each epoch
        (RISES, [0, 0, 0, 0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
        (STAYS, [0, 0, 0, 0, 1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]),
        (RETURNS, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 0, 1, 2, 3, 4, 5, 6]),
    ],
    ids=["rises", "stays", "returns"],
)
def test_counts_of_both_rules_by_hand(losses: list[float], plain: list[int], thesis: list[int]) -> None:
    epochs = range(1, len(losses) + 1)
    assert [epochs_since_lowest(losses[:e]) for e in epochs] == plain
    assert [thesis_count(losses[:e]) for e in epochs] == thesis
    assert epochs_since_lowest([]) == thesis_count([]) == 0


def last_epoch(losses: list[float], rule: str) -> int:
    chosen = TrainCls(stop_rule=rule)  # 50 epochs, patience 5
    return next(e for e in range(len(losses) + 1) if has_ended(chosen, losses[:e]))


def test_the_studys_rule_never_stops_where_plain_patience_ends_at_epoch_9() -> None:
    rising = RISES + [0.9 + 0.01 * k for k in range(60)]
    assert last_epoch(rising, "patience") == 9
    assert last_epoch(rising, "thesis") == 51  # range(n_epochs + 1)
    assert last_epoch(STAYS, "patience") == last_epoch(STAYS, "thesis") == 9
    assert (last_epoch(RETURNS, "patience"), last_epoch(RETURNS, "thesis")) == (7, 9)
    falling = [1 / (1 + k) for k in range(60)]
    assert (last_epoch(falling, "patience"), last_epoch(falling, "thesis")) == (50, 51)


def test_the_rule_is_one_of_two_and_plain_patience_by_default() -> None:
    assert TrainCls().stop_rule == TrainSeg().stop_rule == "patience"
    with pytest.raises(UsageError, match="--stop-rule: 'never' is not one of patience, thesis"):
        TrainCls(stop_rule="never")
    # the cosine reaches 0 with the last epoch that may be trained
    cosine = Training(epochs=10, lr=0.1, schedule="cosine", stop_rule="thesis")
    assert LearningRates(cosine, 4, [])(43) < LearningRates(cosine, 4, [])(40) < 0.01
    assert LearningRates(cosine, 4, [])(44) == pytest.approx(0, abs=1e-12)


def test_rules_in_the_loop(tmp_path: Path) -> None:
    rough = {"epochs": 7, "lr": 2.0, "patience": 2}  # its loss falls for three epochs, then rises
    plain = trained(job(norm=False), settings(**rough), tmp_path / "plain")
    assert len(plain.history) == plain.best_epoch + 2 < 7
    thesis = trained(job(norm=False), settings(**rough, stop_rule="thesis"), tmp_path / "thesis")
    assert len(thesis.history) == 8
    assert thesis.history[: len(plain.history)] == plain.history


def test_a_stopped_run_counts_on_to_the_same_bytes(tmp_path: Path) -> None:
    # steps too small to change a weight: every loss repeats the first one, which both rules count
    chosen = settings(epochs=50, lr=1e-30, patience=4, stop_rule="thesis", checkpoint_minutes=0)

    class Stops(Silent):
        looks = 0

        def advance(self, steps: int = 1, note: str = "") -> None:
            self.looks += 1
            if self.looks == 18:
                raise KeyboardInterrupt

    whole, parts = job(norm=False), job(norm=False)
    one = trained(whole, chosen, tmp_path / "whole")
    assert len(one.history) == 5
    with pytest.raises(KeyboardInterrupt):
        trained(job(norm=False), chosen, tmp_path / "parts", Stops())
    assert list((tmp_path / "parts/last").glob("at-000003-*.json"))  # in the fourth epoch, with two counted
    other = trained(parts, chosen, tmp_path / "parts")
    assert other.history == one.history
    assert same(whole, parts)
    assert (tmp_path / "whole/history.csv").read_bytes() == (tmp_path / "parts/history.csv").read_bytes()
