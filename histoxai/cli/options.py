"""Make command-line options from settings: one declaration, in `histoxai.settings`, serves both.

`verb` turns a function that takes settings objects into a command that Typer understands: every declared field of the
settings becomes an option with its default, help text, flag and panel.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from histoxai.core.errors import UsageError
from histoxai.settings import Work
from histoxai.settings.base import BEHAVIOUR, INPUT, Option, declared, flag_of
from histoxai.settings.work import MODES

_SHARED_VARIABLES = {"seed": "HISTOXAI_SEED", "device": "HISTOXAI_DEVICE"}


def argument(help: str, **options: Any) -> Any:
    """Declare a positional argument."""
    return typer.Argument(help=help, show_default=False, **options)


def path_option(help: str, *flags: str, panel: str = INPUT, metavar: str = "PATH", **options: Any) -> Any:
    """Declare an option that is a path and not a setting."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, metavar=metavar, **options)


def switch(flag: str, help: str, panel: str = BEHAVIOUR) -> Any:
    """Declare an option without a value that is not a setting."""
    return typer.Option(flag, help=help, rich_help_panel=panel)


Output = Annotated[Path, path_option("Where to write.", "-o", "--output")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress; warnings only.", rich_help_panel=BEHAVIOUR)]
Json = Annotated[bool, switch("--json", "Print one JSON object instead of a table.")]
AllowPartial = Annotated[bool, switch("--allow-partial", "Go on where an input has gaps, and mark the result.")]

# Options that say how a command shows its result; like those with `changes_numbers=False` they are not recorded.
PRESENTATION = frozenset({"quiet", "json", "jsonl", "workers", "export", "contact_sheet", "preview", "shown", "list_"})


@dataclass(frozen=True)
class _Parameter:
    """One option of a command: the settings field that it was made from, and the parameter that Typer reads."""

    field: str
    declared: Option
    parameter: inspect.Parameter

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the field's value from those that Typer parsed."""
        value, parse = values[self.parameter.name], self.declared.parse
        if self.declared.repeated:
            return tuple(value)
        return value if parse is None or value is None else parse(value)


def _parameter(entry: Field[Any], known: Option, hint: Any) -> _Parameter:
    default = None if entry.default is MISSING else entry.default
    is_switch = hint is bool
    if known.repeated:
        default, hint = list(default or ()), list[str]
    elif known.parse is not None:
        default = known.text(default)
        hint = str if default is not None else str | None
    choices = entry.metadata.get("choices")
    option = typer.Option(
        *([known.short] if known.short else []),
        _declaration(entry, is_switch and bool(default)),
        help=help_text(known, choices, default),
        rich_help_panel=known.panel,
        metavar=None if is_switch else known.unit or ("NAME" if choices else "TEXT"),
        envvar=_SHARED_VARIABLES.get(entry.name),
    )
    return _Parameter(entry.name, known, _keyword(flag_of(entry), hint, option, default))


def _declaration(entry: Field[Any], is_on: bool) -> str:
    # a switch that is on by default has a flag to turn it off
    flag = flag_of(entry)
    return f"{flag}/--no-{flag.removeprefix('--')}" if is_on else flag


def _keyword(flag: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    """Return a flag as a parameter, whose name also names its variable: HISTOXAI_EXPLAIN_METHOD."""
    name = flag.removeprefix("--").replace("-", "_")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def help_text(known: Option, choices: Sequence[str] | None, default: Any) -> str:
    """Write the help of an option with its choices and its default: "Arithmetic: fp32 or bf16. [fp32]"."""
    text = known.help
    if choices:
        text = f"{text}: {' or '.join(filter(None, [', '.join(choices[:-1]), choices[-1]]))}."
    if known.default_text:
        return f"{text} [{known.default_text}]"
    if default is False or default in (None, "", []):
        return text
    if default is True:
        return f"{text} [on]"
    return f"{text} [{default:g}]" if isinstance(default, float) else f"{text} [{default}]"


def _parameters(kind: type, only: Iterable[str] | None = None) -> list[_Parameter]:
    hints = get_type_hints(kind)
    return [
        _parameter(entry, known, hints[entry.name])
        for entry in fields(kind)
        if (known := declared(entry)) and (only is None or entry.name in only)
    ]


def _mode(value: str) -> inspect.Parameter:
    flag, known = MODES[value]
    if known.unit is None:
        return _keyword(flag, bool, switch(flag, known.help, known.panel), False)
    option = typer.Option(flag, help=known.help, rich_help_panel=known.panel, metavar=known.unit, min=1)
    return _keyword(flag, int | None, option, None)


def verb(
    *kinds: type, work: Sequence[str] = (), modes: Sequence[str] = (), examples: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of settings classes, of the named fields of `Work`, and of its modes.

    The function receives each settings object as the parameter that is annotated with its class, and declares what it
    takes beyond these as Typer does. Where two classes have a field of one name, one option serves both. examples:
    commands for the end of `--help`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        reader = _Reader(kinds, tuple(work), tuple(modes), command)

        @functools.wraps(command)
        def called(**values: Any) -> None:
            command(**reader.read(values))

        typed: Any = called  # Typer reads it as if the options had been written out
        typed.__signature__ = reader.signature
        typed.__annotations__ = {p.name: p.annotation for p in reader.signature.parameters.values()}
        typed.read, typed.examples, typed.unrecorded = reader.read, tuple(examples), reader.unrecorded
        del typed.__wrapped__
        return called

    return decorate


# `verb` for commands whose work is cut into shards, and for those that train.
sharded = functools.partial(
    verb,
    work=("shard", "one_indexed", "verify", "workers", "threads", "force"),
    modes=("count", "missing", "check"),
)
training = functools.partial(verb, work=("threads", "force"), modes=("find-lr", "check"))


class _Reader:
    """Turns the values that Typer parsed into the arguments of a command."""

    def __init__(
        self, kinds: Sequence[type], work: tuple[str, ...], modes: tuple[str, ...], command: Callable[..., None]
    ) -> None:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        names = {p.annotation: p.name for p in own if inspect.isclass(p.annotation)}
        self._settings = {names[kind]: (kind, _parameters(kind)) for kind in kinds}
        if Work in names:
            self._settings[names[Work]] = (Work, _parameters(Work, work))
        self._modes = {value: _mode(value) for value in modes}
        every = [p for _, parameters in self._settings.values() for p in parameters]
        options = {p.name: p for p in (*(m.parameter for m in every), *self._modes.values())}
        rest = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in self._settings]
        self._passed = {p.name for p in rest}
        first = [p for p in rest if p.default is p.empty or _panel(p) not in (INPUT, BEHAVIOUR)]
        last = [p for p in rest if p not in first]
        shared = (p for name, p in options.items() if name not in self._passed)
        self.signature = inspect.Signature([*first, *shared, *last])
        how = {m.parameter.name for m in every if not m.declared.changes_numbers}
        self.unrecorded = how | {p.name for p in self._modes.values()} | PRESENTATION

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the command's arguments: settings objects, `work`, and what it takes itself."""
        arguments: dict[str, Any] = {name: values[name] for name in self._passed}
        for name, (kind, parameters) in self._settings.items():
            given = {p.field: value for p in parameters if (value := p.read(values)) is not None}
            arguments[name] = kind(**given, **(self._mode_of(values) if kind is Work else {}))
        return arguments

    def _mode_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        asked = [value for value, p in self._modes.items() if values[p.name] not in (None, False)]
        if asked == ["plan", "check"]:  # a plan writes nothing either
            asked = ["plan"]
        if len(asked) > 1:
            raise UsageError(f"{' and '.join(MODES[value][0] for value in asked)}: one at a time")
        if not asked:
            return {}
        (only,) = asked
        return {"only": only, **({"parity": values[self._modes[only].name]} if only == "parity" else {})}


def _panel(parameter: inspect.Parameter) -> str | None:
    return next((m.rich_help_panel for m in getattr(parameter.annotation, "__metadata__", ())), None)
