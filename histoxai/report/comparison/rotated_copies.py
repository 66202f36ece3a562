"""Say whether rotated copies in training matter, where two runs differ in them: a test of the classifiers' accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoxai.core import provenance
from histoxai.core.digits import signed
from histoxai.report.comparison.pairs import AccuracyDifference, RunPair
from histoxai.report.lineage import Lineage
from histoxai.report.wording import count_groups, join_names
from histoxai.settings import Augment, Statistics
from histoxai.settings.base import with_omitted
from histoxai.split.rotation import original_ids
from histoxai.split.split import TRAIN
from histoxai.store.patches import Patches

_MATTERS = "Whether rotated copies in training matter"
_IRRELEVANT = ("patches.rotate", "patches.shard_size")


@dataclass(frozen=True)
class CopiesContrast:
    """Two runs of which one classifier was trained with rotated copies, and the other without.

    run: the one beside the first. with_copies: which of both it is. test: `run` less the first; None where no patch can
    be tested. others: further settings of the training in which they differ. trained: tested patches that trained one
    of the classifiers, as they are or as copies.
    """

    run: str
    first: str
    with_copies: str
    test: AccuracyDifference | None
    others: Sequence[str]
    trained: int


def contrast_copies(lineages: Mapping[str, Lineage], pair: RunPair) -> CopiesContrast | None:
    """Return how a pair differs in rotated copies; None where it does not, or where a training store is gone."""
    first, run = next(iter(lineages)), pair["run"]
    ours, theirs = lineages[first], lineages[run]
    stores = ours.training_patches, theirs.training_patches
    if stores[0] is None or stores[1] is None:
        return None
    rotated = [_has_copies(store) for store in stores if store is not None]
    if rotated[0] == rotated[1]:
        return None
    facts = _training_facts(ours, stores[0]), _training_facts(theirs, stores[1])
    keys = sorted(facts[0].keys() | facts[1].keys())
    others = [key for key in keys if facts[0].get(key) != facts[1].get(key) and key not in _IRRELEVANT]
    trained = _count_trained(ours, theirs, (stores[0], stores[1]))
    return CopiesContrast(run, first, run if rotated[1] else first, pair["accuracy"], others, trained)


def _has_copies(patches: Patches) -> bool:
    turns = patches.column("rotation")
    return turns is not None and bool((turns[patches.split == TRAIN] > 0).any())


def _training_facts(lineage: Lineage, patches: Patches) -> dict[str, Any]:
    # all settings that decide what the classifier learned, and the patches that were split
    header, classifier = patches.store.header, lineage.classifier.facts
    source = header["parents"].get("patches", {}).get("digest")
    settings = with_omitted(Augment, header["settings"])
    split = {**settings, "seed": header["seed"], "source": source}
    return provenance.flatten({"patches": split, "training": {"arch": classifier["arch"], **classifier["settings"]}})


def _count_trained(ours: Lineage, theirs: Lineage, stores: tuple[Patches, Patches]) -> int:
    # the patches of both runs that are, or whose copies are, in the train split of either
    common = np.intersect1d(_tested_originals(ours), _tested_originals(theirs))
    trained = np.concatenate([_originals(store)[store.split == TRAIN] for store in stores])
    return int(np.isin(common, trained).sum())


def _tested_originals(lineage: Lineage) -> np.ndarray:
    return _originals(lineage.patches)[lineage.column("row").astype(np.int64)]


def _originals(patches: Patches) -> np.ndarray:
    return original_ids(patches.patch_id, patches.column("rotation"))


def write_on_copies(contrast: CopiesContrast, statistics: Statistics) -> str:
    """Write in one sentence what the paired test of both classifiers' accuracy says about rotated copies."""
    test, between = contrast.test, f"({contrast.run} and {contrast.first})"
    if test is None:
        return f"{_MATTERS} {between} cannot be tested: no patch has one class in both."
    if contrast.others:
        names = join_names(contrast.others)
        return f"{_MATTERS} {between} cannot be told: the classifiers differ in more than that ({names})."
    if contrast.trained:
        return (
            f"{_MATTERS} {between} cannot be told: {contrast.trained:,} of the patches trained one of the classifiers, "
            "as they are or as copies."
        )
    if test["p_holm"] is None:
        return f"{_MATTERS} {between} is not tested ({test['withheld'] or 'too few groups'})."
    found = _found(contrast, test, statistics)
    if test["p_holm"] <= 1 - statistics.level:
        more = "raise" if _with_copies(contrast, test)[0] > 0 else "lower"
        return f"Rotated copies in training {more} the accuracy {between}: {found}."
    if _is_equivalent(contrast, statistics):
        margin = 100 * statistics.margin
        return f"Rotated copies in training leave the accuracy the same within {margin:g} points {between}: {found}."
    return f"{_MATTERS} {between} is not shown, in either direction: {found}."


def unsupported_by_copies(contrast: CopiesContrast, statistics: Statistics) -> list[str]:
    """Return the claim that rotated copies do not matter where nothing supports it, else nothing."""
    test = contrast.test
    is_decided = test is not None and test["p_holm"] is not None and test["p_holm"] <= 1 - statistics.level
    if is_decided or _is_equivalent(contrast, statistics):
        return []
    return ["The study's claim that augmentation did not influence accuracy, nor its opposite."]


def _is_equivalent(contrast: CopiesContrast, statistics: Statistics) -> bool:
    # whether the interval lies within the margin, which is stricter than two one-sided tests
    test = contrast.test
    if test is None or contrast.others or contrast.trained or test["low"] is None or test["high"] is None:
        return False
    return -statistics.margin < test["low"] and test["high"] < statistics.margin


def _found(contrast: CopiesContrast, test: AccuracyDifference, statistics: Statistics) -> str:
    mean, low, high = _with_copies(contrast, test)
    interval = ""
    if low is not None and high is not None:
        interval = f", {100 * statistics.level:g} % interval {signed(100 * low, 1)} to {signed(100 * high, 1)}"
    p = f"p = {test['p_holm']:.2g} after Holm"
    points, groups = signed(100 * mean, 1), count_groups(test["groups"])
    return f"{points} points with them{interval}, {p}, on {test['n']:,} patches of {groups}"


def _with_copies(contrast: CopiesContrast, test: AccuracyDifference) -> tuple[float, float | None, float | None]:
    # accuracy with copies less that without, and its interval
    mean, low, high = test["difference"], test["low"], test["high"]
    assert mean is not None
    if contrast.with_copies == contrast.run:
        return mean, low, high
    return -mean, None if high is None else -high, None if low is None else -low
