"""Every call to the file system as the last one, or as one that fails: nothing is lost, and the rerun completes.

CI tries a sample, spread over all kinds of calls and files; `scripts/faults` tries them all.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import CLASSES, Mini, array_files
from tests.faults.crowd import FAIL, KILL, READS, SHORT, TORN, WRITES, Arm, shim, start
from tests.faults.whole import Case, nothing_wrong
from tests.sampling import CALLS_FAILED, CALLS_KILLED, sized

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(shim() is None, reason="no C compiler (cc) to build the shim that fails calls with"),
]
EVERYTHING = bool(os.environ.get("HISTOXAI_TEST_EVERY_FAULT"))
NO_STORE = ("report", "train-cls", "train-seg")  # what they leave shows at the end
# errors that a call may come back with; EINTR is tried again by Python itself
CODES = {
    "create": ("ENOSPC", "EACCES", "EIO", "EINTR"),
    "write": ("ENOSPC", "EIO", "EINTR", "short"),
    "open": ("EACCES", "EIO", "ESTALE", "EINTR"),
    "read": ("EIO", "ESTALE", "EINTR", "short"),
}
OTHERS = ("ENOSPC", "EIO", "EACCES")


def commands(mini: Mini) -> dict[str, list[object]]:
    small = ["--per-class", 2, "--shard-size", 2]
    return {
        "ingest": ["ingest", mini.diagset, "--classes", ",".join(CLASSES), "--mpp", 0.25, "--shard-size", 32],
        "augment": ["augment", mini.patches, "--shard-size", 64],
        "masks": ["masks", mini.balanced, "--model", mini.seg, "--shard-size", 16],
        "explain": ["explain", mini.balanced, "--model", mini.cls, "--method", "saliency,gradcam", *small],
        "score": ["score", mini.maps, "--masks", mini.masks, "--shard-size", 16, "--repetitions", 100],
        "predict": ["predict", mini.patches, "--model", mini.cls, "--shard-size", 64],
        "report": ["report", mini.scores, "--examples", 0, "--workers", 1],
        "train-cls": ["train-cls", mini.balanced, "--epochs", 2, "--batch-size", 32, "--checkpoint-minutes", 0],
        "train-seg": ["train-seg", mini.nuclei, "--epochs", 2, "--width", 2, "--checkpoint-minutes", 0],
    }


def content(output: Path) -> dict[str, bytes]:
    """Bytes that may not depend on what happened on the way."""
    found = array_files(output)
    if "weights.safetensors" in found:  # all else in a run folder tells seconds
        return {"weights.safetensors": found["weights.safetensors"]}
    return {name: data for name, data in found.items() if not name.endswith("zarr.json")}


def run(command: Sequence[object], log: Path, arm: Arm | None = None) -> int | None:
    log.unlink(missing_ok=True)
    process = start(list(command), log, arm)
    process.join(180)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"hangs: {command}")
    return process.exitcode


def calls(case: Case, tmp_path: Path, log: Path, folder: Path, kinds: int) -> list[tuple[int, str, str]]:
    """Every call of a whole run: number, name, and path below the folder."""
    journal = log.with_name("journal")
    journal.unlink(missing_ok=True)
    place = fresh(tmp_path / "counted")
    assert run(case.to(place / "o"), log, Arm(folder or place, kinds=kinds, journal=journal)) == 0, log.read_text()
    lines = [line.split(" ", 2) for line in journal.read_text().splitlines()]
    return [(int(number), name, path) for number, name, path in lines]


def spread(found: Sequence[tuple[int, str, str]], n: int, seed: str) -> list[tuple[int, str, str]]:
    """Some of these calls, from every kind of call and file in turn; all of them where everything is tried."""
    if EVERYTHING or n >= len(found):
        return list(found)
    rng, groups = random.Random(seed), defaultdict(list)
    for call in found:
        kind = re.sub(r"@[^/]*", "@", call[2])  # temporary names differ from run to run
        groups[call[1], re.sub(r"[0-9]+", "#", kind)].append(call)
    shuffled = [rng.sample(group, len(group)) for group in groups.values()]
    rng.shuffle(shuffled)
    chosen: list[tuple[int, str, str]] = []
    while len(chosen) < n:
        for group in shuffled:
            if group and len(chosen) < n:
                chosen.append(group.pop())
    return sorted(chosen)


def fresh(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def completes(case: Case, place: Path, log: Path) -> None:
    assert run(case.to(place / "o"), log) == 0, log.read_text()
    assert content(place / "o") == case.whole
    left = [p for p in place.rglob("*") if p.name.endswith((".tmp", ".old", ".part")) or p.name == "_part"]
    assert not left
    assert [p.name for p in place.iterdir()] == ["o"]


@pytest.fixture
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Outside of the folder whose calls are counted."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"histoxai-log-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    yield folder / "log"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=list(CALLS_KILLED))
def case(request: pytest.FixtureRequest, mini: Mini, tmp_path: Path, log: Path) -> tuple[str, Case]:
    verb: str = request.param
    made = Case(commands(mini)[verb])
    place = fresh(tmp_path / "whole")
    assert run(made.to(place / "o"), log) == 0, log.read_text()
    made.whole.update(content(place / "o"))
    return verb, made


def test_killed_at_any_call_that_writes(case: tuple[str, Case], tmp_path: Path, log: Path) -> None:
    verb, made = case
    place = tmp_path / "counted"
    found = calls(made, tmp_path, log, place, WRITES)
    assert {"create", "write", "fsync", "rename"} <= {name for _, name, _ in found}
    for number, name, path in spread(found, sized(CALLS_KILLED[verb]), verb):
        for what in (KILL, TORN) if name == "write" else (KILL,):
            fresh(place)
            code = run(made.to(place / "o"), log, Arm(place, number, what))
            if code == 0:  # threads came in another order, and this call was one of fewer
                continue
            assert code == -9, (name, path, log.read_text())
            if verb not in NO_STORE:
                nothing_wrong(place / "o", made)
            completes(made, place, log)


def test_any_call_may_fail(case: tuple[str, Case], mini: Mini, tmp_path: Path, log: Path) -> None:
    verb, made = case
    base = Path(os.path.commonpath([mini.root, tmp_path]))
    found = calls(made, tmp_path, log, base, READS | WRITES)
    assert {"open", "read", "write", "rename"} <= {name for _, name, _ in found}
    rng, place = random.Random(verb), tmp_path / "counted"
    for number, name, path in spread(found, sized(CALLS_FAILED[verb]), f"{verb} errors"):
        codes = CODES.get(name, OTHERS)
        for error in codes if EVERYTHING else (rng.choice(codes),):
            fresh(place)
            what = SHORT if error == "short" else FAIL
            arm = Arm(base, number, what, 0 if error == "short" else getattr(errno, error), READS | WRITES)
            code = run(made.to(place / "o"), log, arm)
            said = log.read_text()
            about = (error, name, path, said)
            assert code in (0, 1, 3, 4), about
            assert "Traceback" not in said, about
            if code:
                assert said.startswith(("histoxai:", "warning:")), about
                if verb not in NO_STORE:
                    nothing_wrong(place / "o", made)
            completes(made, place, log)
