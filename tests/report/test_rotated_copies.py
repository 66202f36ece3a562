"""What a comparison of runs with and without rotated copies in training says, sentence by sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from histoxai.report.comparison.pairs import compare_pair, correct_by_holm
from histoxai.report.comparison.rotated_copies import CopiesContrast, unsupported_by_copies, write_on_copies
from histoxai.score.summary.scores import Scores
from histoxai.settings import Statistics
from histoxai.split.rotation import original_ids
from histoxai.statistics.tests import paired
from tests.stages.test_compare import GROUPS, N, scores

STATISTICS = Statistics(primary="auroc", repetitions=2000)


def with_errors(wrong: np.ndarray) -> Scores:
    """A run in which these patches (n,) bool are classified wrong."""
    s = scores(0.0)
    return replace(s, prediction=np.where(wrong, 1 - s.label, s.label))


def contrast(first: Scores, other: Scores, with_copies: str = "b") -> CopiesContrast:
    """Run a without, and run b with copies, unless `with_copies` says otherwise."""
    pair = compare_pair(first, other, "b", STATISTICS)
    assert pair["accuracy"] is not None
    correct_by_holm([pair["accuracy"]])
    return CopiesContrast("b", "a", with_copies, pair["accuracy"], [], 0)


# 20 groups of 6 patches: patch k is the (k // 20)th of group k % 20
ORDINAL = np.arange(N) // GROUPS
# one or two of six are wrong, in ten groups each: 30 of 120; the mean difference to no errors is 25 points
OFTEN_WRONG = 1 + np.arange(N) % GROUPS % 2 > ORDINAL


def test_a_difference_is_given_with_the_sign_of_the_run_with_copies() -> None:
    assert OFTEN_WRONG.sum() == 30
    none = np.zeros(N, bool)
    test = paired(np.ones(N), (~OFTEN_WRONG).astype(float), scores(0.0).group, *STATISTICS.bootstrap)
    ends = f"95 % interval {100 * test.low:+.1f} to {100 * test.high:+.1f}, p = {test.p:.2g} after Holm"
    raised = write_on_copies(contrast(with_errors(OFTEN_WRONG), with_errors(none)), STATISTICS)
    assert raised == (
        f"Rotated copies in training raise the accuracy (b and a): +25.0 points with them, {ends}, on 120 patches of "
        "20 groups."
    )
    # the same numbers where the first run is the one with copies, and is the better one
    other_way = write_on_copies(contrast(with_errors(none), with_errors(OFTEN_WRONG), "a"), STATISTICS)
    assert other_way.startswith("Rotated copies in training raise the accuracy (b and a): +25.0 points with them")
    lowered = write_on_copies(contrast(with_errors(OFTEN_WRONG), with_errors(none), "a"), STATISTICS)
    assert lowered.startswith("Rotated copies in training lower the accuracy (b and a): -25.0 points with them, 95 %")
    assert f"{-100 * test.high:+.1f} to {-100 * test.low:+.1f}" in lowered
    assert unsupported_by_copies(contrast(with_errors(OFTEN_WRONG), with_errors(none)), STATISTICS) == []


def test_no_difference_is_no_equality_unless_the_interval_lies_within_the_margin() -> None:
    # groups differ by one or two patches of six, in either direction alike: mean 0, wide interval
    turn = np.arange(N) % GROUPS
    first, other = (ORDINAL < 2) & (turn % 2 == 0), (ORDINAL < 2) & (turn % 2 == 1)
    wide = contrast(with_errors(first), with_errors(other))
    assert wide.test is not None
    assert wide.test["difference"] == 0
    assert wide.test["high"] is not None
    assert wide.test["high"] > 0.05
    found = write_on_copies(wide, STATISTICS)
    assert found.startswith(
        "Whether rotated copies in training matter (b and a) is not shown, in either direction: 0.0"
    )
    assert unsupported_by_copies(wide, STATISTICS) == [
        "The study's claim that augmentation did not influence accuracy, nor its opposite."
    ]
    # the same errors in both: a difference of 0 in every group, and an interval that is a point
    same = contrast(with_errors(OFTEN_WRONG), with_errors(OFTEN_WRONG))
    assert write_on_copies(same, STATISTICS) == (
        "Rotated copies in training leave the accuracy the same within 5 points (b and a): 0.0 points with them, "
        "95 % interval 0.0 to 0.0, p = 1 after Holm, on 120 patches of 20 groups."
    )
    assert unsupported_by_copies(same, STATISTICS) == []


def test_what_else_may_explain_a_difference_forbids_an_answer() -> None:
    clear = contrast(with_errors(OFTEN_WRONG), with_errors(np.zeros(N, bool)))
    begin = "Whether rotated copies in training matter (b and a) "
    settings = replace(clear, others=["patches.seed", "training.lr"])
    assert write_on_copies(settings, STATISTICS) == (
        f"{begin}cannot be told: the classifiers differ in more than that (patches.seed and training.lr)."
    )
    leak = replace(clear, trained=7)
    assert write_on_copies(leak, STATISTICS).startswith(f"{begin}cannot be told: 7 of the patches trained one of the")
    assert write_on_copies(replace(clear, test=None), STATISTICS).startswith(f"{begin}cannot be tested")
    few = replace(scores(0.0), group=np.array([f"g{k % 4}" for k in range(N)]))
    assert write_on_copies(contrast(few, few), STATISTICS) == f"{begin}is not tested (4 groups; a test needs 10)."
    same = contrast(with_errors(OFTEN_WRONG), with_errors(OFTEN_WRONG))
    assert len(unsupported_by_copies(replace(same, trained=1), STATISTICS)) == 1


def test_copies_are_named_after_their_originals() -> None:
    ids = np.array(["a", "a@90", "b@270", "c@90"])
    assert original_ids(ids, np.array([0, 1, 3, 0])).tolist() == ["a", "a", "b", "c@90"]  # a source's own "@90" stays
    assert original_ids(ids, None) is ids


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_every_turn_has_its_original(turns: int) -> None:
    suffix = ["", "@90", "@180", "@270"][turns]
    assert original_ids(np.array([f"p{suffix}"]), np.array([turns])).tolist() == ["p"]
