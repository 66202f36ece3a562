"""The methods paragraph of a paper: what was done, with the settings that were used and whom to cite for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from histoxai.core.references import references
from histoxai.core.registry import resolve
from histoxai.explain.bases.method import Method
from histoxai.explain.bases.null_model import NullModel
from histoxai.explain.catalogue import plugin_references
from histoxai.report.export.tables import latex, markdown

STUDY = "valatkaite2024"
# Citation keys by registered network.
_NETWORKS = {"thesis-cnn": (STUDY,), "unet": (STUDY, "ronneberger2015")}


def paragraph(facts: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
    """Sentences, each with the keys that stand behind it.

    facts: `size`, `patches`, `groups`, `split`, `split_by`; `classifier` and `segmenter` (arch, epochs, best_epoch,
    settings, accuracy or masks); `methods` (name, method, null, options); `target`, `score` (settings), `statistics`,
    `version`.
    """
    c, s, stats = facts["classifier"], facts["segmenter"], facts["statistics"]
    height, width = facts["size"]
    real = [m for m in facts["methods"] if not m["null"]]
    null = [m for m in facts["methods"] if m["null"]]
    said: list[tuple[str, tuple[str, ...]]] = [
        (
            f"We explained {facts['patches']} patches of {width} x {height} px from {facts['groups']} groups of the "
            f"{facts['split']} split"
            + (f" (split by {facts['split_by']})" if facts["split_by"] else "")
            + (f"; this is {facts['partial']}" if facts["partial"] else ""),
            (),
        ),
        (f"The classifier, {c['arch']}, {_trained(c)}; {_accuracy(c)}", _NETWORKS.get(c["arch"], ())),
        (f"Nuclei were marked by a segmenter, {s['arch']}, which {_trained(s)}", _NETWORKS.get(s["arch"], ())),
        (f"Maps explain the {_target(facts['target'])}", ()),
    ]
    said += [(f"{m['name']} was computed with {_options(m)}", _method(m).citations) for m in real]
    if null:
        listed = ", ".join(
            m["name"] if issubclass(_method(m), NullModel) else f"{m['name']} ({m['method']} on random weights)"
            for m in null
        )
        said.append(
            (
                f"Null models, which cannot know what the network looks at: {listed}",
                tuple(dict.fromkeys(k for m in null for k in _method(m).citations)),
            )
        )
    score = facts["score"]
    said += [
        (
            f"Maps were compared with masks (threshold {score['mask_threshold']:g}) by {stats['primary']}; measures of "
            f"binary maps cut them at {score['map_threshold']:g}, as the study does. Beside each value stands that of "
            "chance on the same patches",
            (STUDY,),
        ),
        (
            f"Intervals ({100 * stats['level']:g} %) are from a studentised bootstrap over groups with "
            f"{stats['repetitions']} repetitions; p-values are corrected after Holm, ranks compared by Friedman's "
            f"test, and absence of a difference tested as equivalence within {stats['margin']:g}",
            ("holm1979", "demsar2006", "schuirmann1987"),
        ),
        (
            f"All of it was computed with histoxai {facts['version']} on PyTorch, Captum and pytorch-grad-cam",
            ("kokhlikyan2020",),
        ),
    ]
    return said


def as_markdown(said: Sequence[tuple[str, tuple[str, ...]]]) -> bytes:
    """Sentences with pandoc's citations."""
    lines = [markdown(text) + (f" [{'; '.join(f'@{k}' for k in keys)}]" if keys else "") + "." for text, keys in said]
    return ("\n".join(lines) + "\n").encode()


def as_latex(said: Sequence[tuple[str, tuple[str, ...]]]) -> bytes:
    r"""Sentences with `\cite`."""
    lines = [latex(text) + (rf"~\cite{{{','.join(keys)}}}" if keys else "") + "." for text, keys in said]
    return ("\n".join(lines) + "\n").encode()


def bibliography(said: Sequence[tuple[str, tuple[str, ...]]]) -> bytes:
    """BibTeX entries of all works that the sentences cite, and of the study."""
    cited = {STUDY, *(key for _, keys in said for key in keys)}
    works = {**plugin_references(), **references()} if cited - references().keys() else references()
    return ("\n".join(work.entry for key, work in works.items() if key in cited) + "\n").encode()


def _method(facts: Mapping[str, Any]) -> type[Method]:
    return resolve("method", facts["method"])


def _trained(run: Mapping[str, Any]) -> str:
    chosen = run["settings"]
    kind = "AdamW" if chosen.get("weight_decay") else "Adam"
    text = (
        f"was trained with {kind} (learning rate {chosen['lr']:g}, batches of {chosen['batch_size']}, seed "
        f"{chosen['seed']}) for {run['epochs']} epochs; the weights of epoch {run['best_epoch']}, with the lowest "
        "validation loss, were kept"
    )
    more = [
        f"{name.replace('_', ' ')} {chosen[name]:g}"
        for name in ("warmup", "clip", "ema", "label_smoothing", "mixup")
        if chosen.get(name)
    ]
    if chosen.get("accumulate", 1) > 1:
        more.append(f"{chosen['accumulate']} batches a step")
    if chosen.get("augment"):
        more.append("augmented: " + ", ".join(f"{k} {v}" for k, v in chosen["augment"].items() if v))
    if chosen.get("weights"):
        more.append("from pretrained weights" + (", its encoder frozen" if chosen.get("freeze") else ""))
    more += [f"{chosen[k]} {k.replace('_', ' ')}" for k in ("class_weights", "sampling") if chosen.get(k) == "balanced"]
    if chosen.get("temperature") is True:
        more.append("probabilities calibrated by temperature")
    if chosen.get("schedule", "constant") != "constant":
        more.insert(0, f"{chosen['schedule']} schedule")
    return text + (f" ({', '.join(more)})" if more else "")


def _accuracy(run: Mapping[str, Any]) -> str:
    row = (run["metrics"].get("scores") or {}).get("accuracy")
    if not row:
        return f"its accuracy on the {run['split']} split is {_percent(run['metrics']['accuracy'])}"
    interval = "" if row["low"] is None else f" (95 % interval {_percent(row['low'])} to {_percent(row['high'])})"
    return f"its accuracy on the {run['split']} split is {_percent(row['mean'])}{interval}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _target(target: str) -> str:
    return {"predicted": "predicted class", "label": "true class"}.get(target, f"class {target}")


def _options(method: Mapping[str, Any]) -> str:
    known = ", ".join(
        f"{k} = {v}" for k, v in method["options"].items() if v is not None and v is not False and v != ""
    )
    return known or "no further options"
