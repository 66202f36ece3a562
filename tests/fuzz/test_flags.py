"""Every flag of every command with values that nobody meant, typed or as variables; all with --dry-run, which writes
nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histoxai.cli.app import app
from tests.conftest import Mini
from tests.fuzz.mutate import ODD_NUMBERS, WORDS
from tests.fuzz.trial import Trier, judged
from tests.sampling import FUZZ_COMMAND_LINES, sized

pytestmark = pytest.mark.fuzz
GIVEN = os.environ.get("HISTOXAI_FUZZ_CASES")
EXAMPLES = max(10, int(GIVEN) // 3) if GIVEN else sized(FUZZ_COMMAND_LINES)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# what would do more than look, or has tests of its own
LEFT_OUT = {"help", "dry_run", "output", "threads", "json"}
SLURM = (
    *("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT", "SLURM_PROCID"),
    *("SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID", "COLUMNS", "HISTOXAI_CACHE", "TMPDIR", "LANG", "TERM"),
)
# words mean something between others: names of methods, options, classes, ranges
PIECES = (
    *(
        "ig",
        "lime",
        "gradcam",
        "ig.steps",
        "=",
        ",",
        "-",
        ":",
        ".",
        "A",
        "N",
        "R1",
        "0",
        "1",
        "7",
        "auto",
        "all",
        "none",
        "-1",
    ),
    *("null=gradcam", "train", "test", "0.5", "1e-3", "9" * 30, " ", "@", "/", "flips", "hed=0.1", "resnet18", "study"),
)
TEXTS = st.one_of(
    st.sampled_from([*WORDS, *ODD_NUMBERS]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join),
    st.text(max_size=20),
)


def sayable(text: str) -> bool:
    """Whether the system can hand a text to a process."""
    try:
        return "\0" not in os.fsencode(text).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


VALUES = TEXTS.filter(sayable)


def base(verb: str, mini: Mini) -> list[object]:
    """A whole command that looks and writes nothing."""
    out = ["-o", mini.root / "never"]
    looking: dict[str, list[object]] = {
        "ingest": [mini.diagset, *out, "--classes", "A,N,R1", "--dry-run"],
        "augment": [mini.patches, *out, "--dry-run"],
        "audit": [mini.balanced],
        "train-cls": [mini.balanced, *out, "--dry-run"],
        "train-seg": [mini.nuclei, *out, "--dry-run"],
        "masks": [mini.balanced, "--model", mini.seg, *out, "--dry-run"],
        "predict": [mini.balanced, "--model", mini.cls, *out, "--dry-run"],
        "explain": [mini.balanced, "--model", mini.cls, *out, "--dry-run"],
        "score": [mini.maps, "--masks", mini.masks, *out, "--dry-run"],
        "report": [mini.scores, *out, "--dry-run"],
        "info": [mini.maps],
    }
    return [verb, *looking[verb]]


@st.composite
def flags(draw: st.DrawFn, verb: str, places: list[str]) -> tuple[list[str], dict[str, str]]:
    """Some flags of a command with a value each, and some variables."""
    known = [p for p in COMMANDS[verb].params if p.param_type_name == "option" and p.name not in LEFT_OUT]
    words, environ = [], {}
    for param in draw(st.lists(st.sampled_from(known), max_size=3)):
        value = draw(st.one_of(VALUES, st.sampled_from(places)))
        if draw(st.booleans()) and param.envvar:
            environ[str(param.envvar)] = value
        elif param.is_flag:
            words.append(param.opts[0])
        else:
            words += draw(st.sampled_from([[f"{param.opts[0]}={value}"], [param.opts[0], value]]))
    if draw(st.booleans()):
        environ |= draw(st.dictionaries(st.sampled_from(SLURM), VALUES, max_size=3))
        words += ["--shard", "auto"] if verb in ("explain", "score", "masks") and draw(st.booleans()) else []
    return words, environ


@pytest.fixture(scope="module")
def trier() -> Iterator[Trier]:
    made = Trier()
    yield made
    made.close()


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_flags_that_nobody_meant(verb: str, mini: Mini, trier: Trier, tmp_path: Path) -> None:
    places = [str(p) for p in (mini.maps, mini.masks, mini.cls, mini.diagset, mini.root / "none", tmp_path)]
    places += ["/dev/null", "/proc/self/mem", ".", "/", "-"]
    before = sorted(p.name for p in mini.root.iterdir())
    count = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(flags(verb, places))
    def tried(case: tuple[list[str], dict[str, str]]) -> None:
        nonlocal count
        count += 1
        words, environ = case
        outcome = trier([*base(verb, mini), *words], environ)
        wrong = judged(outcome, (0, 1, 2, 3, 4))
        assert wrong == "", f"{shlex.join(words)} with {environ}: {wrong}"

    tried()
    print(f"{verb}: {count} cases")
    assert sorted(p.name for p in mini.root.iterdir()) == before
