"""Write the methods paragraph of a paper: every step with its settings and citations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from histoxai import __version__
from histoxai.core.provenance import plain
from histoxai.core.references import references
from histoxai.explain.bases.null_model import NullModel
from histoxai.explain.catalogue import plugin_references
from histoxai.explain.maps_store import StoredMethod
from histoxai.networks.run_folder import Run
from histoxai.report.export.tables import escape_latex, escape_markdown
from histoxai.report.lineage import Lineage

STUDY = "valatkaite2024"
# Citation keys by registered network.
_UNET = (STUDY, "ronneberger2015")
_NETWORK_CITATIONS = {"thesis-cnn": (STUDY,), "unet": _UNET, "thesis-unet-text": _UNET}
_TARGETS = {"predicted": "predicted class", "label": "true class"}


class Sentence(NamedTuple):
    """A sentence without its full stop, and the keys of its citations."""

    text: str
    citations: tuple[str, ...] = ()


def methods_sentences(lineage: Lineage, statistics: Mapping[str, Any]) -> list[Sentence]:
    """Write the methods paragraph of one run, sentence by sentence; statistics: settings as they were used."""
    classifier, segmenter = lineage.classifier.facts, lineage.segmenter.facts
    methods, target = [lineage.methods[name] for name in lineage.method_names], lineage.scores.header["target"]
    null = [m for m in methods if m.null]
    return [
        Sentence(_patches(lineage.facts())),
        Sentence(
            f"The classifier, {_network(lineage.classifier)}, {_training(classifier)}; {_accuracy(classifier)}",
            _NETWORK_CITATIONS.get(classifier["arch"], ()),
        ),
        Sentence(
            f"Nuclei were marked by a segmenter, {segmenter['arch']}, which {_training(segmenter)}",
            _NETWORK_CITATIONS.get(segmenter["arch"], ()),
        ),
        Sentence(f"Maps explain the {_TARGETS.get(target, f'class {target}')}"),
        *[_method(m) for m in methods if not m.null],
        *([_null_models(null)] if null else []),
        *_scores_and_statistics(lineage.scores.header["settings"], statistics),
        Sentence(
            f"All of it was computed with histoxai {__version__} on PyTorch, Captum and pytorch-grad-cam",
            ("kokhlikyan2020",),
        ),
    ]


def _patches(facts: Mapping[str, Any]) -> str:
    height, width = facts["size"]
    text = (
        f"We explained {facts['patches']} patches of {width} x {height} px from {facts['groups']} groups of the "
        f"{facts['split']} split"
    )
    text += f" (split by {facts['split_by']})" if facts["split_by"] else ""
    return text + (f"; this is {facts['partial']}" if facts["partial"] else "")


def _method(method: StoredMethod) -> Sentence:
    by = f" by {method.library}," if method.library else ""
    return Sentence(f"{method.name} was computed{by} with {_options(method)}", method.explainer.citations)


def _null_models(methods: Sequence[StoredMethod]) -> Sentence:
    names = [
        m.name if isinstance(m.explainer, NullModel) else f"{m.name} ({m.method} on random weights)" for m in methods
    ]
    citations = dict.fromkeys(k for m in methods for k in m.explainer.citations)
    return Sentence(f"Null models, which cannot know what the network looks at: {', '.join(names)}", tuple(citations))


def _scores_and_statistics(score: Mapping[str, Any], statistics: Mapping[str, Any]) -> list[Sentence]:
    return [
        Sentence(
            f"Maps were compared with masks (threshold {score['mask_threshold']:g}) by {statistics['primary']}; "
            f"measures of binary maps cut them at {score['map_threshold']:g}, as the study does. Beside each value "
            "stands that of chance on the same patches",
            (STUDY,),
        ),
        Sentence(
            f"Intervals ({100 * statistics['level']:g} %) are from a studentised bootstrap over groups with "
            f"{statistics['repetitions']} repetitions; p-values are corrected after Holm, ranks compared by Friedman's "
            f"test, and absence of a difference tested as equivalence within {statistics['margin']:g}",
            ("holm1979", "demsar2006", "schuirmann1987"),
        ),
    ]


def as_markdown(sentences: Sequence[Sentence]) -> bytes:
    """Return sentences with pandoc's citations."""
    lines = [
        escape_markdown(text) + (f" [{'; '.join(f'@{k}' for k in keys)}]" if keys else "") + "."
        for text, keys in sentences
    ]
    return ("\n".join(lines) + "\n").encode()


def as_latex(sentences: Sequence[Sentence]) -> bytes:
    r"""Return sentences with `\cite`."""
    lines = [escape_latex(text) + (rf"~\cite{{{','.join(keys)}}}" if keys else "") + "." for text, keys in sentences]
    return ("\n".join(lines) + "\n").encode()


def bibliography(sentences: Sequence[Sentence]) -> bytes:
    """Return the BibTeX entries of everything that is cited, and of the study."""
    cited = {STUDY, *(key for _, keys in sentences for key in keys)}
    works = {**plugin_references(), **references()} if cited - references().keys() else references()
    return ("\n".join(work.entry for key, work in works.items() if key in cited) + "\n").encode()


def _network(run: Run) -> str:
    return run.facts["arch"] + (f" {run.difference}" if run.difference else "")


def _training(run: Mapping[str, Any]) -> str:
    settings = run["settings"]
    optimiser = "AdamW" if settings.get("weight_decay") else "Adam"
    text = (
        f"was trained with {optimiser} (learning rate {settings['lr']:g}, batches of {settings['batch_size']}, seed "
        f"{settings['seed']}) for {run['epochs']} epochs; the weights of epoch {run['best_epoch']}, with the lowest "
        "validation loss, were kept"
    )
    extras = _training_extras(run)
    return text + (f" ({', '.join(extras)})" if extras else "")


def _training_extras(run: Mapping[str, Any]) -> list[str]:
    # settings that differ from the study's plain training
    settings, extras = run["settings"], []
    if settings.get("schedule", "constant") != "constant":
        extras.append(f"{settings['schedule']} schedule")
    if settings.get("stop_rule", "patience") != "patience":
        extras.append("stopped by the rule of the study's code")
    numbers = ("warmup", "clip", "ema", "label_smoothing", "mixup")
    extras += [f"{name.replace('_', ' ')} {settings[name]:g}" for name in numbers if settings.get(name)]
    if settings.get("accumulate", 1) > 1:
        extras.append(f"{settings['accumulate']} batches a step")
    if settings.get("augment"):
        extras.append("augmented: " + ", ".join(f"{k} {v}" for k, v in settings["augment"].items() if v))
    if settings.get("weights"):
        part = "part of " if (run.get("pretrained") or {}).get("partial") else ""
        extras.append(f"from {part}pretrained weights" + (", its encoder frozen" if settings.get("freeze") else ""))
    balanced = [k for k in ("class_weights", "sampling") if settings.get(k) == "balanced"]
    extras += [f"{settings[k]} {k.replace('_', ' ')}" for k in balanced]
    if settings.get("temperature") is True:
        extras.append("probabilities calibrated by temperature")
    return extras


def _accuracy(run: Mapping[str, Any]) -> str:
    row = (run["metrics"].get("scores") or {}).get("accuracy")
    text = f"its accuracy on the {run['split']} split is"
    if not row:
        return f"{text} {_percent(run['metrics']['accuracy'])}"
    interval = "" if row["low"] is None else f" (95 % interval {_percent(row['low'])} to {_percent(row['high'])})"
    return f"{text} {_percent(row['mean'])}{interval}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _options(method: StoredMethod) -> str:
    options = {k: v for k, v in plain(method.explainer.options).items() if v is not None and v is not False and v != ""}
    return ", ".join(f"{k} = {v}" for k, v in options.items()) or "no further options"
