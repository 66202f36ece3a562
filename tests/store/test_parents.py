"""Parents of a store: found where they are, refused where they are others; rows joined on patch_id."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from histoxai.core.errors import HistoxaiError, ParentChanged
from histoxai.store.parents import ParentKind, join_rows, open_parent

TEXT = ParentKind("notes", Path.read_text, lambda text: f"digest of {text}")


def header(path: str, text: str = "a") -> dict[str, object]:
    return {"parents": {"notes": {"path": path, "digest": f"digest of {text}"}}}


def test_a_parent_is_opened_where_its_child_names_it(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a")
    assert open_parent(TEXT, tmp_path / "child", header("notes")) == "a"


def test_a_parent_that_was_moved_is_opened_at_its_new_path(tmp_path: Path) -> None:
    (tmp_path / "moved").write_text("a")
    assert open_parent(TEXT, tmp_path / "child", header("notes"), tmp_path / "moved") == "a"


def test_a_missing_parent_names_the_option_for_its_new_path(tmp_path: Path) -> None:
    with pytest.raises(ParentChanged, match="was made from it; name its place with --notes") as caught:
        open_parent(TEXT, tmp_path / "child", header("notes"))
    assert caught.value.remedy == "name its place with --notes"


def test_another_parent_is_refused_with_both_digests(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("b")
    with pytest.raises(ParentChanged, match=r"\(digest digest of b, then digest of a\)") as caught:
        open_parent(TEXT, tmp_path / "child", header("notes"))
    assert caught.value.remedy == f"name the right one with --notes, or remake {tmp_path / 'child'}"


def test_rows_are_joined_on_patch_id() -> None:
    rows = join_rows(np.array(["c", "x", "a", "c"]), np.array(["a", "b", "c"]))
    assert rows.tolist() == [2, -1, 0, 2]
    assert rows.dtype == np.int64
    assert join_rows(np.array([], str), np.array(["a"])).shape == (0,)


def test_an_error_with_a_remedy_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(ParentChanged("p: is another", "choose p")))  # noqa: S301
    assert (type(error), error.problem, error.remedy) == (ParentChanged, "p: is another", "choose p")
    assert str(error) == "p: is another; choose p"
    assert str(HistoxaiError("only a problem")) == "only a problem"
