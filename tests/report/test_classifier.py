"""The section on the classifier: what is said of weights that filled part of its encoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from histoxai.networks.run_folder import Run
from histoxai.report.export.methods_text import _training
from histoxai.report.page.render import _environment
from histoxai.report.sections.classifier import build

PARTIAL = {"file": "uni<b>.pth", "missing": ["a.weight"], "unexpected": ["b.0", "b.1"], "partial": True}
WHOLE = {"file": "uni.pth", "missing": [], "unexpected": ["head.bias"], "partial": False}


def facts(pretrained: dict[str, Any] | None) -> dict[str, Any]:
    settings = {"lr": 0.001, "batch_size": 8, "seed": 0, "weights": "sum"}
    found = {"arch": "timm:vit", "epochs": 3, "best_epoch": 1, "split": "test", "classes": ["A"], "settings": settings}
    metrics = {"confusion": [[1]], "per_class": {}, "patches": 1, "mean_class_accuracy": 1.0, "accuracy": 1.0}
    return found | {"metrics": metrics} | ({"pretrained": pretrained} if pretrained else {})


def page(pretrained: dict[str, Any] | None) -> str:
    drawn = SimpleNamespace(png=b"", size=(1, 1))
    lineage = SimpleNamespace(classifier=Run(Path("cls"), facts(pretrained)), history=lambda name: {})
    inputs: Any = SimpleNamespace(lineage=lineage, figures=SimpleNamespace(add=lambda *figure: drawn))
    return _environment().get_template("sections/classifier.html").render(**build(inputs).content)


def test_part_of_an_encoder_is_said_on_the_page_and_in_the_methods_text() -> None:
    assert (
        '<p class="note warning">The classifier began from part of the encoder in uni&lt;b&gt;.pth '
        "(--allow-partial-weights): 1 tensors were missing and stayed random, 2 of the file were left out.</p>"
    ) in page(PARTIAL)
    assert "(from part of pretrained weights)" in _training(facts(PARTIAL))


@pytest.mark.parametrize("pretrained", [None, WHOLE])
def test_nothing_is_said_of_a_whole_encoder(pretrained: dict[str, Any] | None) -> None:
    assert "note warning" not in page(pretrained)
    assert "(from pretrained weights)" in _training(facts(pretrained))
