"""Declare settings once: default, bounds, unit and help text of every option stand in one dataclass field.

The command line, the environment variable, `--help`, the recorded command, the store's header and the tables of options
in the docs are all made from these declarations. Values are checked when a settings object is made: a value out of
bounds raises UsageError, as do infinities and integers of more than 31 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from functools import partial
from typing import Any

from histoxai.core.errors import UsageError

_LARGEST_INTEGER = 2**31 - 1
_COMMA = re.compile(r"(?<!\\),")  # that no backslash precedes
MAX_SHARD_ROWS = 1_000_000  # the index of a shard takes 16 bytes for each
MAX_MICRO_BATCH = 65_536
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "ge": (lambda value, bound: value >= bound, "at least"),
    "gt": (lambda value, bound: value > bound, "more than"),
    "le": (lambda value, bound: value <= bound, "at most"),
    "lt": (lambda value, bound: value < bound, "less than"),
}

# Panels of `--help`, in the order in which they are shown; a verb's own panels come where METHOD stands.
INPUT = "Input and output"
METHOD = "Method"
DEVICE = "Device and memory"
ARRAY = "Array jobs"
BEHAVIOUR = "Behaviour"


@dataclass(frozen=True)
class Option:
    """How a setting appears on the command line.

    help: one sentence without its choices and default, which are added where it is shown. panel: its group in
    `--help`. unit: the word that stands for its value, such as PX. name: the flag; None for `--` and the field's name.
    short: a one-letter flag. parse, text: from the text on the command line to the value, and back. default_text: says
    how a default of None is chosen. repeated: the flag may be given several times. changes_numbers: False for options
    that are no part of a recorded command, since they say how work is done and not what is computed.
    """

    help: str
    panel: str = METHOD
    unit: str | None = None
    name: str | None = None
    short: str | None = None
    parse: Callable[[str], Any] | None = None
    text: Callable[[Any], str | None] = str
    default_text: str | None = None
    repeated: bool = False
    changes_numbers: bool = True


def bounded(default: Any, **bounds: Any) -> Any:
    """Declare a dataclass field with a default and bounds (`ge`, `gt`, `le`, `lt`, `choices`).

    `omit_default`: see `recorded_options`.
    """
    return field(default=default, metadata=bounds)


def option(default: Any, help: str, panel: str = METHOD, unit: str | None = None, **more: Any) -> Any:
    """Declare a dataclass field that is an option of the command line.

    more: bounds as in `bounded`, and further fields of `Option`.
    """
    bounds = {key: more.pop(key) for key in (*_BOUNDS, "choices", "omit_default") if key in more}
    return field(default=default, metadata={**bounds, "option": Option(help, panel, unit, **more)})


def with_default(parent: type, name: str, default: Any) -> Any:
    """Declare a field as a parent dataclass does, with another default."""
    return field(default=default, metadata=next(f.metadata for f in fields(parent) if f.name == name))


def declared(entry: Field[Any]) -> Option | None:
    """Return how a field appears on the command line; None for one that does not."""
    return entry.metadata.get("option")


def flag_of(entry: Field[Any]) -> str:
    """Return the flag of a field, such as `--shard-size`."""
    known = declared(entry)
    return known.name if known and known.name else "--" + entry.name.replace("_", "-")


def recorded_options(options: Any) -> dict[str, Any]:
    """Return options as a store records them; an option declared with `omit_default` is left out at its default.

    Such an option came later than the first stores. Left out, it changes no identity of theirs, and they go on.
    """
    defaults = _omitted_defaults(options)
    return {k: v for k, v in asdict(options).items() if not (k in defaults and v == defaults[k])}


def with_omitted(kind: type, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a store records of settings of this kind, with the defaults that it leaves out."""
    return {**_omitted_defaults(kind), **recorded}


def _omitted_defaults(kind: Any) -> dict[str, Any]:
    return {f.name: f.default for f in fields(kind) if f.metadata.get("omit_default")}


def check_bounds(settings: Any) -> None:
    """Check every field of a settings object; raise UsageError for the first that is out of its bounds."""
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if value is not None:
            _check(flag_of(entry), value, entry)


def _check(flag: str, value: Any, entry: Field[Any]) -> None:
    choices = entry.metadata.get("choices")
    if choices is not None and value not in choices:
        raise UsageError(f"{flag}: '{value}' is not one of {', '.join(map(str, choices))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{flag}: {value} must be finite")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER and entry.name != "seed":
        raise UsageError(f"{flag}: {value} must be at most {_LARGEST_INTEGER}")
    for key, (holds, words) in _BOUNDS.items():
        if key in entry.metadata and not holds(value, entry.metadata[key]):
            raise UsageError(f"{flag}: {value} must be {words} {entry.metadata[key]}")


class Checked:
    """A dataclass whose fields are checked when it is made."""

    def __post_init__(self) -> None:
        check_bounds(self)


def names(flag: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of names with commas between them, where `\\,` is a comma in a name.

    It raises UsageError for none, and for one given twice.
    """

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word.replace("\\,", ",").strip() for word in _COMMA.split(text) if word.strip())
        if not words:
            raise UsageError(f"{flag}: names at least one, comma between them")
        if len(set(words)) < len(words):
            raise UsageError(f"{flag} {text}: names one twice")
        return words

    return parse


def optional_names(flag: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser like that of `names` to which an empty text is no names."""
    return lambda text: names(flag)(text) if text else ()


def join(values: tuple[Any, ...] | None) -> str | None:
    """Write several values as one text, as `names` reads it, commas between them; None for None."""
    return None if values is None else ",".join(str(value).replace(",", "\\,") for value in values)


# ---- options that several verbs have; each is called with what differs between the verbs

seed = partial(option, 0, "Seed of everything random.", BEHAVIOUR, "N", ge=0)
device = partial(option, "auto", "auto, cpu, cuda or cuda:INDEX.", DEVICE, "NAME")
micro_batch = partial(option, 16, "Patches in one pass of the network.", DEVICE, "N", ge=1, le=MAX_MICRO_BATCH)
shard_size = partial(
    option, help="Patches of a shard, the unit of work.", panel=ARRAY, unit="N", ge=1, le=MAX_SHARD_ROWS
)
split = partial(option, help="Patches of which split", panel=INPUT, choices=("train", "validation", "test", "all"))
primary = partial(
    option,
    None,
    "Measure by which methods are compared.",
    unit="NAME",
    default_text="auroc; iou for the thesis profile",
)
cancer = partial(
    option,
    None,
    "Classes with tumor, commas between.",
    unit="NAMES",
    parse=names("--cancer"),
    text=join,
    default_text="all but A, N, ...",
)
