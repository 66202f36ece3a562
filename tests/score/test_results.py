"""docs/score.schema.json says what the types of `score --json` say: the same keys, and the same ones required."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest

from histoxai.score import results
from histoxai.statistics.classification import ClassifierScores, ReliabilityBin, Share
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "docs" / "score.schema.json").read_text())
PROPERTIES = SCHEMA["properties"]
TYPES = {
    "summary": (SCHEMA, results.ScoreSummary),
    "statistics": (PROPERTIES["statistics"], results.StatisticsFacts),
    "methods": (PROPERTIES["methods"]["additionalProperties"], results.MethodFacts),
    "rows": (PROPERTIES["rows"]["items"], results.MeanRow),
    "above_chance": (SCHEMA["$defs"]["row"]["properties"]["above_chance"], results.AboveChance),
    "sizes": (PROPERTIES["sizes"]["items"], results.SizeRow),
    "map_thresholds": (PROPERTIES["map_thresholds"]["items"], results.MapThresholdRow),
    "mask_thresholds": (PROPERTIES["mask_thresholds"]["items"], results.MaskThresholdRow),
    "comparisons": (PROPERTIES["comparisons"]["items"], results.MethodComparison),
    "best_null": (PROPERTIES["best_null"]["items"], results.NullComparison),
    "friedman": (PROPERTIES["friedman"]["items"], results.FriedmanRow),
    "conclusions": (PROPERTIES["conclusions"]["items"], results.ConclusionRow),
    "faithfulness": (PROPERTIES["faithfulness"], results.FaithfulnessSummary),
    "probes": (PROPERTIES["faithfulness"]["properties"]["probes"]["additionalProperties"], results.ItemState),
    "faithfulness rows": (PROPERTIES["faithfulness"]["properties"]["rows"]["items"], results.FaithfulnessRow),
    "curves": (PROPERTIES["faithfulness"]["properties"]["curves"]["items"], results.FaithfulnessCurve),
    "sanity": (PROPERTIES["sanity"], results.SanitySummary),
    "sanity rows": (PROPERTIES["sanity"]["properties"]["rows"]["items"], results.SanityRow),
    "classifier": (PROPERTIES["classifier"], ClassifierScores),
    "accuracy": (SCHEMA["$defs"]["estimate"], Share),
    "reliability": (PROPERTIES["classifier"]["properties"]["reliability"]["items"], ReliabilityBin),
}


def whole(node: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Keys and required keys of an object, with those of the definition that it refers to."""
    keys, required = set(node.get("properties", {})), set(node.get("required", []))
    if "$ref" in node:
        more = whole(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]])
        return keys | more[0], required | more[1]
    return keys, required


@pytest.mark.parametrize("name", list(TYPES))
def test_keys_and_required_keys_of_schema_and_types_are_equal(name: str) -> None:
    node, kind = TYPES[name]
    keys, required = whole(node)
    assert keys == set(typing.get_type_hints(kind))
    assert required == set(kind.__required_keys__)
    assert kind.__doc__
