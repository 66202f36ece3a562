"""Cross-validation: a run for each fold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histoxai.core.errors import InputRefused, UsageError
from histoxai.store.patches import Patches
from histoxai.train.cross_validation import check_folds
from histoxai.train.ranks import Placement
from tests.conftest import Mini, done, run


def test_a_run_for_each_fold(mini: Mini, tmp_path: Path) -> None:
    stores = [tmp_path / f"f{k}.zarr" for k in range(3)]
    for k, path in enumerate(stores):
        done("augment", mini.patches, "-o", path, "--folds", 3, "--fold", k)
    words = ["--epochs", 1, "--batch-size", 8, "--json"]
    found = json.loads(done("train-cls", *reversed(stores), "-o", tmp_path / "runs", *words))
    assert [Path(r).name for r in found["runs"]] == ["fold0", "fold1", "fold2"]
    # every patch is tested once, by the network that has not seen it
    assert found["scores"]["patches"] == len(Patches(mini.patches)) == 90
    each = [json.loads((tmp_path / f"runs/fold{k}/run.json").read_text())["metrics"] for k in range(3)]
    assert found["accuracy_of_folds"]["each"] == [m["accuracy"] for m in each]
    pooled = sum(m["accuracy"] * m["patches"] for m in each) / 90
    assert found["scores"]["accuracy"]["mean"] == pytest.approx(pooled)
    assert json.loads((tmp_path / "runs/folds.json").read_text())["scores"] == found["scores"]
    outcome = run("train-cls", stores[0], stores[0], "-o", tmp_path / "y", *words)
    assert (outcome.code, "is fold 0, as" in outcome.err.replace("\n", " ")) == (3, True)
    assert run("train-cls", stores[0], mini.balanced, "-o", tmp_path / "y", *words).code == 3
    done("augment", mini.patches, "-o", tmp_path / "g.zarr", "--folds", 4, "--fold", 1)
    with pytest.raises(InputRefused, match="is a fold of another store"):
        check_folds([stores[0], tmp_path / "g.zarr"], tmp_path, Placement())
    with pytest.raises(UsageError, match="under srun"):
        check_folds(stores, tmp_path, Placement(per_node=2))
