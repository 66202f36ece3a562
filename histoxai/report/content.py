"""The values that the page's templates read: facts of the run, and the values of every section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from histoxai import __version__
from histoxai.core import provenance
from histoxai.report.lineage import Lineage, Partial
from histoxai.report.sections.answer import AnswerContent
from histoxai.report.sections.classifier import ClassifierContent
from histoxai.report.sections.data import DataContent
from histoxai.report.sections.distributions import DistributionsContent
from histoxai.report.sections.evidence import EvidenceContent
from histoxai.report.sections.faithfulness import FaithfulnessContent
from histoxai.report.sections.masks import MasksContent
from histoxai.report.sections.origin import OriginContent
from histoxai.report.sections.patches import ExplorerContent, PatchesContent
from histoxai.report.sections.robustness import RobustnessContent
from histoxai.report.sections.scores import ScoresContent
from histoxai.report.sections.slides import SlidesContent


class RunFacts(TypedDict):
    """A run at a glance: explained patches and their groups, split, size (height, width) and explained class.

    partial: "partial: 8 of 10 patches", or empty. split_by: None for stores that recorded no rule.
    """

    version: str
    patches: int
    partial: str
    groups: int
    split: str
    split_by: str | None
    size: tuple[int, int]
    target: str


class MethodFacts(TypedDict):
    """An explanation method: its name in the store, the registered method, whether a null model, and its options."""

    name: str
    method: str
    null: bool
    options: dict[str, Any]


class MethodsFacts(RunFacts):
    """What the methods paragraph of a paper says of a run.

    statistics: settings as they were used; classifier, segmenter: facts of the run folders; score: settings.
    """

    statistics: Mapping[str, Any]
    classifier: dict[str, Any]
    segmenter: dict[str, Any]
    methods: list[MethodFacts]
    score: dict[str, Any]


class PageContent(
    RunFacts,
    AnswerContent,
    EvidenceContent,
    DataContent,
    ClassifierContent,
    MasksContent,
    PatchesContent,
    SlidesContent,
    ScoresContent,
    DistributionsContent,
    FaithfulnessContent,
    RobustnessContent,
    OriginContent,
):
    """All values of the template `report.html`."""

    title: str
    methods: list[str]
    explorer: ExplorerContent


def partial_label(partial: Partial | None) -> str:
    """Return the mark of every figure of an incomplete store; empty for a complete one."""
    return f"partial: {partial['patches']:,} of {partial['of']:,} patches" if partial else ""


def run_facts(lineage: Lineage) -> RunFacts:
    """Return the facts of a run for its page and its methods paragraph."""
    return {
        "version": __version__,
        "patches": len(lineage.rows),
        "partial": partial_label(lineage.partial),
        "groups": len(set(lineage.column("group").tolist())),
        "split": lineage.maps.header["settings"]["split"],
        "split_by": lineage.patches.store.header["settings"].get("split_by"),
        "size": lineage.patches.size,
        "target": lineage.scores.header["target"],
    }


def methods_facts(lineage: Lineage, statistics: Mapping[str, Any]) -> MethodsFacts:
    """Return what the methods paragraph says of a run; statistics: settings as they were used."""
    methods: list[MethodFacts] = [
        {"name": m.name, "method": m.method, "null": m.null, "options": provenance.plain(m.explainer.options)}
        for m in (lineage.methods[name] for name in lineage.method_names)
    ]
    return {
        **run_facts(lineage),
        "statistics": statistics,
        "classifier": lineage.classifier.facts,
        "segmenter": lineage.segmenter.facts,
        "methods": methods,
        "score": lineage.scores.header["settings"],
    }
