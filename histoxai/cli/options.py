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
    """One option of a command and the settings field that it was made from."""

    name: str
    entry: Field[Any]
    seen: inspect.Parameter

    def read(self, given: Any) -> Any:
        """Return the field's value for what the command line gave."""
        known = declared(self.entry)
        assert known is not None
        if known.repeated:
            return tuple(given)
        return known.parse(given) if known.parse is not None and given is not None else given


def _default(entry: Field[Any]) -> Any:
    known = declared(entry)
    value = None if entry.default is MISSING else entry.default
    assert known is not None
    if known.repeated:
        return list(value or ())
    return value if known.parse is None else known.text(value)


def _type(entry: Field[Any], hint: Any, default: Any) -> Any:
    known = declared(entry)
    assert known is not None
    if known.repeated:
        return list[str]
    if known.parse is not None:
        return str if default is not None else str | None
    return hint


def _parameter(entry: Field[Any], hint: Any) -> _Parameter:
    known = declared(entry)
    assert known is not None
    flags = [known.short] if known.short else []
    choices = entry.metadata.get("choices")
    default = _default(entry)
    option = typer.Option(
        *flags,
        flag_of(entry),
        help=help_text(known, choices, default),
        rich_help_panel=known.panel,
        metavar=None if hint is bool else known.unit or ("NAME" if choices else "TEXT"),
        envvar=_SHARED_VARIABLES.get(entry.name),
    )
    annotation = Annotated[_type(entry, hint, default), option]  # type: ignore[valid-type]
    name = flag_of(entry).removeprefix("--").replace("-", "_")  # which names the variable, as HISTOXAI_EXPLAIN_METHOD
    seen = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    return _Parameter(name, entry, seen)


def help_text(known: Option, choices: Sequence[str] | None, default: Any) -> str:
    """Write the help of an option with its choices and its default: "Arithmetic: fp32 or bf16. [fp32]"."""
    text = known.help
    if choices:
        text = f"{text}: {' or '.join(filter(None, [', '.join(choices[:-1]), choices[-1]]))}."
    if known.default_text:
        return f"{text} [{known.default_text}]"
    if default is False or default in (None, "", []):
        return text
    return f"{text} [{default:g}]" if isinstance(default, float) else f"{text} [{default}]"


def _parameters(kind: type, only: Iterable[str] | None = None) -> list[_Parameter]:
    hints = get_type_hints(kind)
    wanted = [entry for entry in fields(kind) if declared(entry) and (only is None or entry.name in only)]
    return [_parameter(entry, hints[entry.name]) for entry in wanted]


def _mode(value: str) -> inspect.Parameter:
    flag, known = MODES[value]
    kind: Any = int | None if known.unit else bool
    option = typer.Option(flag, help=known.help, rich_help_panel=known.panel, metavar=known.unit, min=1)
    option = option if known.unit else typer.Option(flag, help=known.help, rich_help_panel=known.panel)
    default = None if known.unit else False
    name = flag.removeprefix("--").replace("-", "_")
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


# The fields of `Work` that a verb whose work is cut into shards takes, and its modes.
SHARDED = ("shard", "one_indexed", "verify", "workers", "threads", "force")
SHARDED_MODES = ("count", "missing", "check")


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

        seen: Any = called  # by Typer, as if the options had been written out
        seen.__signature__ = reader.signature
        seen.__annotations__ = {p.name: p.annotation for p in reader.signature.parameters.values()}
        seen.read, seen.examples, seen.unrecorded = reader.read, tuple(examples), reader.unrecorded
        del seen.__wrapped__
        return called

    return decorate


class _Reader:
    """From the values that Typer parsed to the arguments of a command."""

    def __init__(
        self, kinds: Sequence[type], work: tuple[str, ...], modes: tuple[str, ...], command: Callable[..., None]
    ) -> None:
        own = list(inspect.signature(command, eval_str=True).parameters.values())
        names = {p.annotation: p.name for p in own if inspect.isclass(p.annotation)}
        self._settings = {names[kind]: (kind, _parameters(kind)) for kind in kinds}
        self._work_name = names.get(Work)
        self._work = _parameters(Work, work) if self._work_name else []
        self._modes = {value: _mode(value) for value in modes}
        options = {p.name: p.seen for _, found in self._settings.values() for p in found}
        options |= {p.name: p.seen for p in self._work} | {p.name: p for p in self._modes.values()}
        ready = {*self._settings, self._work_name}
        rest = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in ready]
        self._passed = {p.name for p in rest}
        first = [p for p in rest if p.default is p.empty or _panel(p) not in (INPUT, BEHAVIOUR)]
        last = [p for p in rest if p not in first]
        shared = (p for name, p in options.items() if name not in self._passed)
        self.signature = inspect.Signature([*first, *shared, *last])
        every = [p for _, found in self._settings.values() for p in found] + self._work
        how = {p.name for p in every if not _known(p.entry).changes_numbers}
        self.unrecorded = how | {p.name for p in self._modes.values()} | PRESENTATION

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the command's arguments: settings objects, `work`, and what it takes itself."""
        found: dict[str, Any] = {name: values[name] for name in self._passed}
        for name, (kind, parameters) in self._settings.items():
            given = {p.entry.name: p.read(values[p.name]) for p in parameters}
            found[name] = kind(**{field: v for field, v in given.items() if v is not None})
        if self._work_name:
            given = {p.entry.name: p.read(values[p.name]) for p in self._work}
            found[self._work_name] = Work(**given, **self._mode_of(values))
        return found

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


def _known(entry: Field[Any]) -> Option:
    known = declared(entry)
    assert known is not None
    return known
