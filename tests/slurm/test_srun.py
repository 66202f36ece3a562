"""Training by several tasks of a real Slurm: the loss curve of one process, and a step that is stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import CLASSES, done, write_diagset
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import MARKS

pytestmark = MARKS

# no normalisation over the batch and no dropout: what two processes do is what one does
COMMAND = [
    *("--arch", "vit-s-16", "--lr", "1e-4", "--batch-size", "8", "--threads", "1", "--device", "cpu"),
    *("--overfit-batches", "3", "--patience", "9"),
]


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    write_diagset(folder / "diagset")
    done("ingest", folder / "diagset", "-o", folder / "p.zarr", "--classes", ",".join(CLASSES), "--mpp", 0.25)
    done("augment", folder / "p.zarr", "-o", folder / "b.zarr")
    return folder / "b.zarr"


def history(folder: Path) -> list[dict[str, float]]:
    with open(folder / "history.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("where", [["-N", "1", "-n", "2"], ["-N", "2", "-n", "2"]], ids=["one node", "two nodes"])
def test_srun_gives_the_loss_curve_of_one_process(
    slurm: Cluster,
    balanced: Path,
    tmp_path: Path,
    where: list[str],
) -> None:
    train = ["histoxai", "train-cls", balanced, *COMMAND, "--epochs", "2"]
    slurm("histoxai", *train[1:], "-o", tmp_path / "one", "--quiet")
    if where[1] == "2":  # the nodes of this Slurm have no addresses of their own
        slurm.env["MASTER_ADDR"] = "127.0.0.1"
    try:
        printed = slurm("srun", "--mem=0", *where, *train, "-o", tmp_path / "two", "--json")
    finally:
        slurm.env.pop("MASTER_ADDR", None)
    assert printed.count("histoxai.train-cls/1") == 1  # by the first alone
    assert '"processes": 2' in printed
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)


def test_a_step_that_is_stopped_goes_on(slurm: Cluster, balanced: Path, tmp_path: Path) -> None:
    train = f"srun --mem=0 histoxai train-cls {balanced} {' '.join(COMMAND)} --epochs 4"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--nodes=1", "--ntasks=2", "--no-requeue"]
    job = slurm.submit(*options, "--output=whole.log", "--wrap", f"{train} -o {whole}")
    slurm.until(lambda: slurm.finished(job))
    job = slurm.submit(*options, "--output=parts.log", "--wrap", f"{train} -o {parts}")
    log = slurm.folder / "parts.log"
    slurm.until(lambda: log.exists() and "epoch 1;" in log.read_text())
    slurm("scancel", "--signal=TERM", f"{job}.0")
    slurm.until(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(slurm.state(job)))
    assert "exit code 75" in log.read_text().lower()
    assert list((parts / "last").glob("at-*.json"))
    job = slurm.submit(*options, "--output=parts.log", "--open-mode=append", "--wrap", f"{train} -o {parts}")
    slurm.until(lambda: slurm.finished(job))
    assert "going on from its checkpoint" in log.read_text()
    assert history(whole) == history(parts)
    assert (whole / "weights.safetensors").read_bytes() == (parts / "weights.safetensors").read_bytes()


def test_a_script_that_asks_for_tasks_and_starts_one(slurm: Cluster, balanced: Path, tmp_path: Path) -> None:
    """Without srun there is one process, which does not wait for others."""
    command = f"exec histoxai train-cls {balanced} {' '.join(COMMAND)} --epochs 1 -o {tmp_path / 'x'}"
    job = slurm.submit("--nodes=1", "--ntasks=2", "--wrap", command)
    slurm.until(lambda: slurm.finished(job))
    assert len(history(tmp_path / "x")) == 1
