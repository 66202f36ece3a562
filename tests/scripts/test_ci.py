"""`.ci/run`: samples of the fault and fuzz tests shrink to the time that is left; no test is left out."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests import sampling
from tests.conftest import ROOT
from tests.sampling import affordable, described, share, sized


def test_a_quiet_machine_tries_whole_samples() -> None:
    # 22.5 of 35 minutes are gone when fuzz alone remains, and it takes 5
    assert affordable("fuzz", 22.5, 9.2) == 1
    # 35 - 12 - 8.5 for the timed tests - 2 for the fuzz tests' floor = 12.5 minutes for 9
    assert affordable("faults", 12, 9.2, ("timed", "fuzz")) == 1


def test_samples_shrink_to_the_minutes_that_are_left() -> None:
    assert affordable("fuzz", 32, 9.2) == pytest.approx(3 / 5)
    assert affordable("faults", 17, 9.2, ("timed", "fuzz")) == pytest.approx(7.5 / 9)
    # half as fast: 35 - 20 = 15 minutes for 18
    assert affordable("faults", 20, 18.4) == pytest.approx(15 / 18)


def test_samples_keep_their_floor_until_the_limit_is_near() -> None:
    assert affordable("fuzz", 34.9, 9.2) == 0.4
    assert affordable("fuzz", 52, 9.2) == 0.4  # 3 minutes are left, and the floor takes 2
    assert affordable("fuzz", 54, 9.2) == pytest.approx(1 / 5)
    assert affordable("faults", 30, 18.4, ("timed", "fuzz")) == pytest.approx((55 - 30 - 17 - 4) / 18)


def test_no_sample_is_ever_empty() -> None:
    assert affordable("fuzz", 80, 9.2) == sampling.LEAST
    assert [sized(n, sampling.LEAST) for n in (1, 12, 40)] == [1, 1, 1]
    assert [sized(n, 0.4) for n in (1, 12, 24)] == [1, 5, 10]


def test_share_is_a_number_above_0_and_at_most_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HISTOXAI_TEST_SHARE", raising=False)
    assert share() == 1
    assert sized(24) == 24
    monkeypatch.setenv("HISTOXAI_TEST_SHARE", "0.25")
    assert sized(24) == 6
    for text in ("0", "1.1", "-1", "nan", "much"):
        monkeypatch.setenv("HISTOXAI_TEST_SHARE", text)
        with pytest.raises(ValueError):
            share()


def test_what_was_sampled_is_said() -> None:
    assert described("faults", 1) == (
        "faults: 100% of the samples: 58 of 58 kills at calls, 67 of 67 failing calls, "
        "29 of 29 kills at random moments, 16 of 16 kills of trainings"
    )
    assert described("fuzz", 0.4) == (
        "fuzz: 40% of the samples: 10 of 24 damaged inputs for each parser, "
        "5 of 13 made-up command lines for each command"
    )


def test_ci_asks_on_the_command_line() -> None:
    started = time.time() - 32 * 60
    said = subprocess.run(
        [sys.executable, "-m", "tests.sampling", "share", "fuzz", str(started), str(9.2 * 60)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    assert float(said) == pytest.approx(3 / 5, abs=0.02)


def test_ci_runs_every_test_once() -> None:
    """The selections of `.ci/run` and `scripts/test` part the markers: each kind of test is in exactly one."""
    ci = (ROOT / ".ci" / "run").read_text()
    quick = "not slow and not slurm and not faults and not fuzz and not gpu"
    assert quick in (ROOT / "scripts" / "test").read_text()
    slow = "slow and not slurm and not alone and not faults and not fuzz and not gpu"
    chosen = [quick, slow, "slurm", "alone", "faults", "fuzz"]
    for selection in chosen[1:4]:
        assert f'-m "{selection}"' in ci
    assert '-m "$1"' in ci
    assert "\n  sampled faults timed fuzz\n" in ci
    assert "|| sampled faults fuzz\nsampled fuzz\n" in ci
    kinds = [set(), {"slow"}, {"slow", "alone"}, {"slow", "real"}, {"slurm"}, {"faults"}, {"fuzz"}]
    names = ("slow", "slurm", "alone", "faults", "fuzz", "gpu")
    for kind in [*kinds, {"gpu"}]:  # those of a GPU run in its rehearsal, which is a slow test
        marks = {name: name in kind for name in names}
        assert sum(bool(eval(text, {}, marks)) for text in chosen) == (kind != {"gpu"}), kind  # noqa: S307
