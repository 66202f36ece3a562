"""Sample sizes of the fault and fuzz tests, and the share of them that CI has time for.

`HISTOXAI_TEST_SHARE`, above 0 and at most 1, shrinks every sample; each keeps at least one case. Tests that have no
sample, and the corpus of the fuzz tests, always run whole.

`python -m tests.sampling share PHASE STARTED QUICK_SECONDS [LATER ...]` prints the share for `.ci/run`; STARTED is in
seconds since 1970, LATER names the phases that are still to come.
`python -m tests.sampling describe PHASE SHARE` prints what that share comes to.
"""

from __future__ import annotations

import os
import sys
import time

# How often each command is killed at a call to the file system, and how many of its calls fail.
CALLS_KILLED = {"ingest": 12, "augment": 6, "masks": 8, "explain": 12, "score": 10, "predict": 4, "report": 1}
CALLS_KILLED |= {"train-cls": 3, "train-seg": 2}
CALLS_FAILED = {"ingest": 12, "augment": 8, "masks": 10, "explain": 14, "score": 12, "predict": 5, "report": 1}
CALLS_FAILED |= {"train-cls": 3, "train-seg": 2}
# How often each command is killed at a random moment.
RANDOM_KILLS = {"explain": 10, "explain more": 6, "ingest": 4, "masks": 4, "score": 4, "score more": 1}
TRAINING_KILLS = {("train-cls", 0): 8, ("train-cls", 10): 4, ("train-seg", 0): 4}
# Damaged inputs of each parser, and made-up command lines of each command.
FUZZ_CASES = 24
FUZZ_COMMAND_LINES = 13

# Minutes on two quiet cores of the machine that needs 9.2 for the quick tests; the samples whole.
MINUTES = {"quick": 9.2, "timed": 8.5, "faults": 9.0, "fuzz": 5.0}
AIM, LIMIT = 35.0, 55.0  # minutes of the whole run: wished for, and kept
FLOOR, LEAST = 0.4, 0.02  # the share that is kept while the limit allows it, and the smallest of all


def share() -> float:
    """Return the share of the samples to try, from `HISTOXAI_TEST_SHARE`; 1 where it is not set.

    Raises ValueError for anything but a number above 0 and at most 1.
    """
    value = float(os.environ.get("HISTOXAI_TEST_SHARE", "1"))
    if not 0 < value <= 1:
        raise ValueError(f"HISTOXAI_TEST_SHARE={value}: expected a number above 0 and at most 1")
    return value


def sized(full: int, part: float | None = None) -> int:
    """Return `part` (by default `share()`) of a sample size, at least 1."""
    return max(1, round(full * (share() if part is None else part)))


def affordable(phase: str, elapsed: float, quick: float, later: tuple[str, ...] = ()) -> float:
    """Return the share of a phase's samples that fits.

    The share aims at `AIM` minutes, does not fall below `FLOOR` for that, and falls below it to keep `LIMIT`.

    phase: "faults" or "fuzz". elapsed: minutes since CI began. quick: minutes that the quick tests took, which tells
    how fast the machine is. later: phases still to come; samples among them count with `FLOOR`.
    """
    speed = max(quick, 0.1) / MINUTES["quick"]
    reserved = sum(MINUTES[name] * (FLOOR if name in ("faults", "fuzz") else 1) for name in later) * speed

    def until(end: float) -> float:
        return (end - elapsed - reserved) / (MINUTES[phase] * speed)

    return min(1.0, max(LEAST, until(AIM), min(FLOOR, until(LIMIT))))


def described(phase: str, part: float) -> str:
    """Say in one line what a share of a phase's samples comes to, beside the whole samples."""
    samples = {
        "faults": {
            "kills at calls": CALLS_KILLED.values(),
            "failing calls": CALLS_FAILED.values(),
            "kills at random moments": RANDOM_KILLS.values(),
            "kills of trainings": TRAINING_KILLS.values(),
        },
        "fuzz": {
            "damaged inputs for each parser": [FUZZ_CASES],
            "made-up command lines for each command": [FUZZ_COMMAND_LINES],
        },
    }
    counts = (f"{sum(sized(n, part) for n in sizes)} of {sum(sizes)} {name}" for name, sizes in samples[phase].items())
    return f"{phase}: {part:.0%} of the samples: {', '.join(counts)}"


def main(task: str, phase: str, number: str, quick_seconds: str = "", *later: str) -> None:
    """Run one of the two commands of the module's docstring."""
    if task == "describe":
        print(described(phase, float(number)))
    else:
        print(f"{affordable(phase, (time.time() - float(number)) / 60, float(quick_seconds) / 60, later):z.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
