"""Training that is killed again and again ends with the weights and the history of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Mini
from tests.faults.crowd import start
from tests.sampling import TRAINING_KILLS, sized

pytestmark = pytest.mark.faults
ROUGH = [
    *("--epochs", 5, "--patience", 5, "--batch-size", 8, "--augment", "light", "--ema", 0.9),
    *("--schedule", "cosine", "--warmup", 1, "--clip", 1, "--mixup", 0.3, "--accumulate", 2),
]


def commands(mini: Mini) -> dict[str, list[object]]:
    return {
        "train-cls": ["train-cls", mini.balanced, *ROUGH],
        "train-seg": ["train-seg", mini.nuclei, "--epochs", 8, "--width", 4, "--lr", 0.01, "--schedule", "plateau"],
    }


def left(folder: Path) -> tuple[bytes, bytes, object]:
    """What has to be the same: weights, history, and what was measured."""
    facts = json.loads((folder / "run.json").read_text())
    return (folder / "weights.safetensors").read_bytes(), (folder / "history.csv").read_bytes(), facts["metrics"]


# checkpoints after every step, so that kills fall into their writing; and after epochs alone
@pytest.mark.parametrize(("verb", "minutes"), list(TRAINING_KILLS))
def test_kills_at_random_moments_of_training(mini: Mini, tmp_path: Path, verb: str, minutes: int) -> None:
    command, log = commands(mini)[verb], tmp_path / "log"
    start([*command, "-o", tmp_path / "x", "--dry-run"], log).join(120)  # starts the server
    started = time.monotonic()
    process = start([*command, "-o", tmp_path / "whole", "--quiet"], log)
    process.join(200)
    assert process.exitcode == 0, log.read_text()
    seconds = time.monotonic() - started
    rng, kills = random.Random(f"{verb} {minutes}"), 0
    parts = [*command, "-o", tmp_path / "parts", "--quiet", "--checkpoint-minutes", minutes]
    while kills < sized(TRAINING_KILLS[verb, minutes]):
        process = start(parts, log)
        time.sleep(seconds * rng.uniform(0.2, 0.7))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        if (tmp_path / "parts/run.json").exists():  # it got to its end between two kills
            assert left(tmp_path / "parts") == left(tmp_path / "whole")
            (tmp_path / "parts").rename(tmp_path / f"done{kills}")
    process = start(parts, log)
    process.join(200)
    assert process.exitcode == 0, log.read_text()
    assert left(tmp_path / "parts") == left(tmp_path / "whole")
    names = {p.name for p in (tmp_path / "parts").iterdir()}
    assert "last" not in names
    assert not [n for n in names if n.startswith(".")]
    assert "Traceback" not in log.read_text()


def histoxai(*words: object, stop_after: float | None = None, sign: int = signal.SIGTERM) -> tuple[int, str]:
    """A command in a process of its own, stopped after some seconds; exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "histoxai", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    if stop_after is not None:
        for line in process.stderr:  # until the first epoch is behind
            seen += line
            if line.startswith("epoch 1;"):
                break
        time.sleep(stop_after)
        os.kill(process.pid, sign)
    _, rest = process.communicate(timeout=120)
    return process.returncode, seen + rest


@pytest.mark.parametrize("devices", [1, 2])
def test_a_signal_leaves_a_checkpoint_and_75(mini: Mini, tmp_path: Path, devices: int) -> None:
    more = ["--devices", devices, "--threads", 1] if devices > 1 else ["--threads", 2]
    command = ["train-cls", mini.balanced, "--epochs", 4, "--patience", 4, "--batch-size", 8, *more]
    code, said = histoxai(*command, "-o", tmp_path / "parts", stop_after=0.3)
    assert code == 75, said
    assert "stopped by SIGTERM; what is finished is kept" in said
    assert list((tmp_path / "parts/last").glob("at-*.json"))
    code, said = histoxai(*command, "-o", tmp_path / "parts", "--resume", "required")
    assert code == 0, said
    assert "going on from its checkpoint at epoch 2, batch" in said
    assert "Traceback" not in said
    assert histoxai(*command, "-o", tmp_path / "whole")[0] == 0
    assert left(tmp_path / "parts") == left(tmp_path / "whole")
