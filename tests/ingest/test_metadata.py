"""The metadata table: what is said of groups, and how other tables than CSVs are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoxai.core.errors import InputRefused
from histoxai.ingest.formats.pairs import PairsFormat
from histoxai.ingest.metadata import add_metadata
from histoxai.settings import Ingest
from tests.conftest import run

ALONE = "every image counts as a group of its own: no names tell which belong together"


def pairs(root: Path, names: str) -> Path:
    """Images of noise beside masks with a square of 1."""
    rng = np.random.default_rng(0)
    for name in names:
        for folder, values in (("images", rng.integers(0, 255, (16, 16, 3), np.uint8)), ("masks", np.eye(16) > 0)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(root / folder / f"{name}.png")
    return root


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_patients_replace_what_is_said_of_groups(tmp_path: Path) -> None:
    root = pairs(tmp_path / "src", "abc")
    every = table(tmp_path / "m.csv", "scan,patient", "a,P1", "b,P1", "c,P2")
    outcome = run("ingest", root, "-o", tmp_path / "o.zarr", "--metadata", every)
    assert outcome.code == 0
    assert "group: the patient of m.csv (2 in all)" in outcome.err
    assert "group of its own" not in outcome.err
    index = PairsFormat(root, Ingest()).index
    assert ALONE in index.notes
    add_metadata(index, table(tmp_path / "some.csv", "scan,patient", "a,P1", "b,P1"))
    assert index.notes[-2:] == [
        "group: the patient of some.csv (1 in all); groups without a patient stay as they are (1)",
        "some.csv: 1 scans have no row, the first is 'c'",
    ]
    assert ALONE in index.notes


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_columns_without_commas_are_named(tmp_path: Path, sign: str, name: str) -> None:
    index = PairsFormat(pairs(tmp_path / "src", "ab"), Ingest()).index
    path = table(tmp_path / "m.csv", f"scan{sign}patient", f"a{sign}Smith, A", f"b{sign}1,5")
    with pytest.raises(InputRefused) as error:
        add_metadata(index, path)
    assert str(error.value) == (
        f"{path}: its columns are separated by {name}; save it with commas (Excel: CSV UTF-8, comma delimited)"
    )
