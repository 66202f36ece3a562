"""Commands on record: every option, given as a flag or as a variable, is recorded and parses to equal settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import pytest
import typer

from histoxai.cli.app import app
from histoxai.cli.command import recorded
from histoxai.core import provenance

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
REQUIRED = {
    "ingest": ["src", "-o", "out"],
    "augment": ["p.zarr", "-o", "out"],
    "audit": ["p.zarr"],
    "train-cls": ["p.zarr", "-o", "out"],
    "train-seg": ["p.zarr", "-o", "out"],
    "masks": ["p.zarr", "--model", "seg", "-o", "out"],
    "predict": ["p.zarr", "--model", "cls", "-o", "out"],
    "explain": ["p.zarr", "--model", "cls", "-o", "out"],
    "score": ["m.zarr", "--masks", "k.zarr", "-o", "out"],
    "report": ["s.zarr", "-o", "out"],
    "info": ["s.zarr"],
}
# Values that differ from the default and lie in its bounds; other options take the first of TRIED that is accepted.
VALUES = {
    "fold": "1",
    "fractions": "0.6,0.2,0.2",
    "augment": "light,hed=0.1",
    "shown": "strong",
    "probes": "road,sensitivity",
    "class_map": "3=epithelial,4=spindle",
    "classes": r"Tumor\, NOS,Stroma",  # a comma in a name
    "preview": "a picture.png",
    "export": "means.csv",
    "hold_out": "here, there",
    "option": "ig.steps=300",
    "shard": "0-7",
}
TOGETHER = {
    "fold": ["--folds", "5"],
    "folds": ["--fold", "1"],
    "stain": ["--stain-reference", "a.png"],
    "stain_reference": ["--stain", "macenko"],
    "overlap": ["--size", "64"],
    "gamma": ["--loss", "focal"],
    "warmup": ["--epochs", "99"],
}
TRIED = ("7", "0.7", "11", "256", "a name, with 'quotes' and $signs")
LEFT_OUT = {"help", "list_"}


def parsed(verb: str, words: list[str]) -> Any:
    return COMMANDS[verb].make_context(
        verb, list(words), auto_envvar_prefix=f"HISTOXAI_{verb.upper().replace('-', '_')}"
    )


def arguments(ctx: Any) -> dict[str, Any]:
    # without how the work is done, which is no part of a recorded command
    left_out = ctx.command.callback.unrecorded
    flat: dict[str, Any] = {}
    for name, value in ctx.command.callback.read(ctx.params).items():
        flat |= {f"{name}.{k}": v for k, v in vars(value).items()} if is_dataclass(value) else {name: value}
    return {k: v for k, v in flat.items() if k.rpartition(".")[2] not in (*left_out, "only", "parity")}


def every_option() -> Iterator[tuple[str, str]]:
    for verb, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name not in LEFT_OUT:
                yield verb, parameter.name


def choices(parameter: Any) -> tuple[str, ...]:
    # of "First layer: none or imagenet. [none]"
    text = (parameter.help or "").partition(": ")[2].partition(".")[0]
    return tuple(text.replace(" or ", ", ").split(", ")) if " or " in text or text == "encoder" else ()


def accepted(verb: str, parameter: Any, beside: list[str]) -> str:
    flag = max(parameter.opts, key=len)
    default = arguments(parsed(verb, REQUIRED[verb]))
    for value in (*filter(None, [VALUES.get(parameter.name)]), *choices(parameter), *TRIED):
        try:
            ctx = parsed(verb, [*REQUIRED[verb], *beside, f"{flag}={value}"])
            if arguments(ctx) != default or parameter.name in ctx.command.callback.unrecorded:
                return value
        except Exception:
            continue
    raise AssertionError(f"no value for {verb} {flag}")


def without(words: list[str], flags: list[str]) -> list[str]:
    k = next((k for k, word in enumerate(words) if word in flags), len(words))
    return words[:k] + words[k + 2 :]


@pytest.mark.parametrize(("verb", "name"), every_option())
def test_a_recorded_command_parses_to_equal_settings(verb: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameter = next(p for p in COMMANDS[verb].params if p.name == name)
    flag, beside = max(parameter.opts, key=len), TOGETHER.get(name, [])
    given, variable = [], {}
    key = f"HISTOXAI_{verb.upper().replace('-', '_')}_{name.upper()}"
    if parameter.is_flag:
        switched = parameter.secondary_opts or parameter.opts
        given, variable = [switched[0]], {key: "0" if parameter.secondary_opts else "1"}
    else:
        value = accepted(verb, parameter, beside)
        given, variable = [f"{flag}={value}"], {key: value}
    required = without(REQUIRED[verb], parameter.opts)
    want = parsed(verb, [*required, *beside, *given])
    again = parsed(verb, recorded(want)[1:])
    assert arguments(again) == arguments(want)
    for k, v in variable.items():
        monkeypatch.setenv(k, v)
    from_variable = parsed(verb, [*required, *beside])
    assert from_variable.command.callback.read(from_variable.params) == want.command.callback.read(want.params)
    words = recorded(from_variable)
    for k in variable:
        monkeypatch.delenv(k)
    assert arguments(parsed(verb, words[1:])) == arguments(want)
    if name in want.command.callback.unrecorded:
        assert not set(given) & set(words)
        assert not set(parameter.opts) & set(words)


@pytest.mark.parametrize(
    ("verb", "variables", "words"),
    [
        ("score", {"HISTOXAI_SCORE_FAITHFULNESS": "1"}, ["--faithfulness"]),
        ("score", {"HISTOXAI_DEVICE": "cuda"}, ["--device", "cuda"]),
        ("score", {"HISTOXAI_SEED": "5"}, ["--seed", "5"]),
        ("report", {"HISTOXAI_REPORT_SLIDES": "0"}, ["--no-slides"]),
        (
            "explain",
            {"HISTOXAI_EXPLAIN_OPTION": "ig.steps=3 nt.samples=2"},
            ["-O", "ig.steps=3", "-O", "nt.samples=2"],
        ),
        ("masks", {"HISTOXAI_MASKS_SHARD": "3", "HISTOXAI_MASKS_RESCALE": "true"}, ["--rescale"]),
    ],
)
def test_variables_are_recorded_as_flags(
    verb: str, variables: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert recorded(parsed(verb, REQUIRED[verb]))[-len(words) or None :] == words


def test_names_that_look_like_flags_are_recorded_as_they_are() -> None:
    words = recorded(parsed("ingest", ["--format=-odd", "-o", "out", "--", "--a folder"]))
    assert words == ["ingest", "-o", "out", "--format=-odd", "--", "--a folder"]
    provenance.record_command(words)
    try:
        assert shlex.split(provenance.recorded_command()) == ["histoxai", *words]
    finally:
        provenance.record_command([])


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_examples_of_the_help_parse(verb: str) -> None:
    examples = COMMANDS[verb].callback.examples
    assert len(examples) >= 2
    for line in examples:
        words = shlex.split(line.partition(" | ")[0])
        assert words[:2] == ["histoxai", verb]
        ctx = parsed(verb, words[2:])
        ctx.command.callback.read(ctx.params)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_help_is_short(verb: str) -> None:
    # a third of the 209 lines that `train-cls --help` had when every option took five
    formatter = COMMANDS[verb].make_context(verb, [], resilient_parsing=True).make_formatter()
    ctx = COMMANDS[verb].make_context(verb, [], resilient_parsing=True)
    ctx.command.format_help(ctx, formatter)
    lines = formatter.getvalue().splitlines()
    assert len(lines) <= 80
    for p in COMMANDS[verb].params:
        flag = max(p.opts, key=len)
        named = f"--[no-]{flag[2:]}" if p.secondary_opts else flag
        assert any(named in line for line in lines) or p.param_type_name == "argument", p.name
