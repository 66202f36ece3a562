"""Describe the compared runs: their facts, their different settings, and the limits of the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histoxai.core import provenance
from histoxai.report.comparison.pairs import RunPair
from histoxai.report.lineage import Lineage
from histoxai.settings import Augment
from histoxai.settings.base import with_omitted
from histoxai.store.patches import Patches

_STEPS = ("patches", "classifier", "segmenter", "masks", "maps", "scores")


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name runs by as many last parts of their paths as tell them apart, without endings."""
    parts = [[*p.resolve().parts[1:-1], p.resolve().name.removesuffix(".zarr")] for p in paths]
    for depth in range(1, max(len(p) for p in parts) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({k + 1})" for k, name in enumerate(names)]


def describe_run(name: str, lineage: Lineage) -> dict[str, Any]:
    """Return the facts of a run."""
    return {
        "name": name,
        "arch": lineage.classifier.facts["arch"],
        **{k: v for k, v in lineage.facts().items() if k in ("patches", "groups", "split")},
        "methods": ", ".join(lineage.method_names),
        "path": str(lineage.scores.path),
    }


def differing_settings(lineages: Mapping[str, Lineage]) -> list[dict[str, Any]]:
    """Return every setting, and every store's digest, that is not the same in all runs, in the pipeline's order."""
    common_methods = set.intersection(*(set(lineage.methods) for lineage in lineages.values()))
    settings = [_all_settings(lineage, common_methods) for lineage in lineages.values()]
    keys = sorted(dict.fromkeys(key for of_run in settings for key in of_run), key=lambda key: _STEPS.index(key[0]))
    rows = []
    for step, setting in keys:
        values = ["–" if (v := of_run.get((step, setting))) is None else str(v) for of_run in settings]
        if len(set(values)) > 1:
            rows.append({"of": step, "setting": setting, "values": values})
    return rows


def _all_settings(lineage: Lineage, methods: set[str]) -> dict[tuple[str, str], Any]:
    # by step and setting; `methods`: those whose options count
    classifier, segmenter = lineage.classifier.facts, lineage.segmenter.facts
    options = {
        name: {**provenance.plain(m.explainer.options), "engine": m.library or "histoxai"}
        for name, m in lineage.methods.items()
        if name in methods
    }
    of_step: dict[str, Mapping[str, Any]] = {
        "patches": _split_settings(lineage.patches),
        "classifier": {"arch": classifier["arch"], **classifier["settings"], **_training_split(lineage)},
        "segmenter": {"arch": segmenter["arch"], **segmenter["settings"]},
        "masks": lineage.masks.header["settings"],
        "maps": {**lineage.maps.header["settings"], **options},
        "scores": lineage.scores.header["settings"],
    }
    digests = _digests(lineage)
    settings: dict[tuple[str, str], Any] = {}
    for step in _STEPS:
        settings[step, "digest"] = digests[step][:12]
        flat = provenance.flatten(of_step[step])
        # those of "slides" are facts of each slide, not settings
        settings |= {(step, key): v for key, v in flat.items() if not key.startswith("slides.")}
    return settings


def _split_settings(patches: Patches) -> dict[str, Any]:
    recorded = patches.store.header["settings"]
    return with_omitted(Augment, recorded) if patches.store.has("rotation") else recorded


def _training_split(lineage: Lineage) -> dict[str, Any]:
    # of a classifier that was trained on another store than the one that was explained
    patches = lineage.training_patches
    is_same = patches is None or patches.digest == lineage.patches.digest
    return {} if patches is None or is_same else {"trained on": _split_settings(patches)}


def _digests(lineage: Lineage) -> dict[str, str]:
    return {row["name"]: row["digest"] for row in lineage.ancestors()}


def notes_on(lineages: Mapping[str, Lineage], pairs: Sequence[RunPair]) -> list[str]:
    """Return explanations of a difference other than the maps, for every run beside the first."""
    first = next(iter(lineages))
    digests = {name: _digests(lineage) for name, lineage in lineages.items()}
    notes = []
    for pair in pairs:
        run = pair["run"]
        if pair["patches"] and digests[run]["masks"] != digests[first]["masks"]:
            notes.append(
                f"{run} was scored against other masks than {first}: a difference can be the masks', not the maps'."
            )
        notes += _notes_on_patches(pair, first)
        if others := count_other_pixels(lineages[first], lineages[run]):
            notes.append(
                f"{others:,} patches of one id have other pixels in {run} than in {first} (another source, stain or "
                "scale): a difference can be the pictures'."
            )
        if changed := _changed_score_settings(lineages[first], lineages[run]):
            notes.append(f"{run} was measured in another way than {first} ({changed}): a difference can be that.")
        if pair["other_group"]:
            notes.append(
                f"{pair['other_group']:,} patches are of another group in {run} than in {first}; tests keep together "
                "what either keeps together."
            )
    return notes


def _notes_on_patches(pair: RunPair, first: str) -> Iterator[str]:
    run = pair["run"]
    if pair["only_first"] or pair["only_theirs"]:
        yield (
            f"{pair['only_theirs']:,} patches of {run} are not in {first}, and {pair['only_first']:,} of {first} "
            f"not in {run}: tests leave them out, means do not."
        )
    if pair["other_class"]:
        yield (
            f"{pair['other_class']:,} patches have another class in {run} than in {first}; the classifiers' test "
            "leaves them out."
        )


def count_other_pixels(first: Lineage, other: Lineage) -> int:
    """Count the patches of the same id in both runs whose pixels differ."""
    if first.patches.digest == other.patches.digest:
        return 0
    first_pixels, other_pixels = _pixel_hashes(first), _pixel_hashes(other)
    return sum(first_pixels[i] != pixels for i, pixels in other_pixels.items() if i in first_pixels)


def _pixel_hashes(lineage: Lineage) -> dict[str, tuple[int, ...]]:
    identity = lineage.patches.store.take("identity", lineage.column("row").astype(np.int64))
    return dict(zip(lineage.column("patch_id").tolist(), map(tuple, identity[:, :2].tolist()), strict=True))


def _changed_score_settings(first: Lineage, other: Lineage) -> str:
    # the settings that change the meaning of a score
    ours, theirs = ({**run.scores.header["settings"], "target": run.scores.header["target"]} for run in (first, other))
    changed = [k for k in ours if k != "shard_size" and ours[k] != theirs.get(k)]
    return ", ".join(f"{k} {theirs.get(k)} instead of {ours[k]}" for k in changed)
