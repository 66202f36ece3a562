"""Signals: when they raise, and when they wait for the next check."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from histoxai.core import signals
from histoxai.core.errors import Interrupted


@pytest.mark.parametrize("starting", [True, False])
def test_a_signal_while_torch_is_imported_waits_for_the_next_check(
    monkeypatch: pytest.MonkeyPatch, starting: bool
) -> None:
    torch = ModuleType("torch")
    torch.__spec__ = SimpleNamespace(_initializing=starting)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(signals, "_received", [])
    if starting:
        signals._stop(signal.SIGTERM, None)
    else:
        with pytest.raises(Interrupted, match="SIGTERM"):
            signals._stop(signal.SIGTERM, None)
    assert signals.stop_requested()
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        signals.check()


def test_importlib_marks_a_module_while_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marked.py").write_text("seen = __spec__._initializing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import marked  # type: ignore[import-not-found]

    assert marked.seen is True
    assert marked.__spec__._initializing is False
