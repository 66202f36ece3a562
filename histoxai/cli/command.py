"""Write a command's compact help, and record the command for the stores that it writes."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand

from histoxai.core import provenance
from histoxai.settings.base import ARRAY, BEHAVIOUR, DEVICE, INPUT

_LEFT = 26  # columns of flags before their help
_WIDEST = 100
_FIRST, _LAST = (INPUT, "Network"), (DEVICE, ARRAY, BEHAVIOUR)
_RULE = "Every option is also a variable, HISTOXAI_{verb}_OPTION, which a flag on the command line overrides."


class Command(TyperCommand):
    """A command with compact help, which puts itself on record before it runs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["words"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        provenance.record_command(recorded(ctx))
        return super().invoke(ctx)

    def get_usage(self, ctx: Any) -> str:
        """Return the usage line, the same in `--help` and under an error."""
        return f"Usage: {ctx.command_path} {' '.join(_usage(self.params))}"

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, a sentence, the options by panel, and examples."""
        text = [_usage_line(self.get_usage(ctx)), ""]
        text += [*_wrapped(self.help or ""), ""]
        for panel, options in panels(self.params):
            text.append(_heading(panel))
            for option in options:
                text += _row(option)
            text.append("")
        text += _wrapped(_RULE.format(verb=str(ctx.info_name).upper().replace("-", "_")))
        if examples := getattr(self.callback, "examples", ()):
            text += ["", _heading("Examples"), *(f"  {line}" for line in examples)]
        formatter.write("\n".join(text) + "\n")


def format_group_help(group: Any, ctx: Any, formatter: Any) -> None:
    """Write the help of the whole program: its commands in the order of the pipeline."""
    text = [_usage_line(group.get_usage(ctx)), "", *_wrapped(group.help or ""), ""]
    text.append(_heading("Commands"))
    for name, command in group.commands.items():
        text += _columns(f"  {name}", (command.help or "").split("\n")[0], 13)
    text += ["", _heading("Options")]
    for option in group.get_params(ctx):
        text += _row(option)
    text += ["", f"`{ctx.command_path} COMMAND --help` shows a command's options and examples."]
    formatter.write("\n".join(text) + "\n")


def recorded(ctx: Any) -> list[str]:
    """Return the words of the command that does all of the work of `ctx` again, without what only says how.

    They are made from the parsed values, which came from the command line or from variables. The command neither starts
    over, nor only looks, nor does one task's share, since a command on record is there to be run again.
    """
    command = ctx.command
    left_out: frozenset[str] = getattr(command.callback, "unrecorded", frozenset())
    words: list[str] = []
    flags: list[str] = []
    for parameter in command.params:
        value = ctx.params.get(parameter.name)
        if ctx.get_parameter_source(parameter.name).name == "DEFAULT" or parameter.name in left_out or value is None:
            continue
        if _is_argument(parameter):
            words += [str(v) for v in (value if isinstance(value, list | tuple) else [value])]
        else:
            flags += _flag_words(parameter, value)
    if any(word.startswith("-") for word in words):
        words = ["--", *words]
        return [ctx.info_name, *flags, *words]
    return [ctx.info_name, *words, *flags]


def _flag_words(parameter: Any, value: Any) -> Iterator[str]:
    flag, long = parameter.opts[0], max(parameter.opts, key=len)
    if isinstance(value, bool):
        if value or parameter.secondary_opts:
            yield flag if value else parameter.secondary_opts[0]
        return
    for each in value if isinstance(value, list | tuple) else [value]:
        text = str(each)
        yield from [f"{long}={text}"] if text.startswith("-") else [flag, text]


def _usage(parameters: Iterable[Any]) -> Iterator[str]:
    for p in parameters:
        if _is_argument(p):
            yield _argument_usage(p)
    for p in parameters:
        if not _is_argument(p) and p.required:
            yield f"{min(p.opts, key=len)} {metavar_of(p)}"
    yield "[OPTIONS]"


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _argument_usage(parameter: Any) -> str:
    return metavar_of(parameter) + ("..." if parameter.nargs < 0 else "")


def metavar_of(parameter: Any) -> str:
    """Return the word that stands for a parameter's value; empty for a switch."""
    if _is_argument(parameter):
        return str(parameter.metavar or parameter.name).upper()
    if parameter.is_flag:
        return ""
    return parameter.metavar or "TEXT"


def panels(parameters: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each panel with its parameters: what everybody needs first, how the command behaves last."""
    by_panel: dict[str, list[Any]] = {name: [] for name in _FIRST}
    for parameter in parameters:
        if not getattr(parameter, "hidden", False):
            default = INPUT if _is_argument(parameter) else BEHAVIOUR
            by_panel.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(parameter)
    last = {name: by_panel.pop(name) for name in _LAST if name in by_panel}
    for name, options in {**by_panel, **last}.items():
        if options:
            yield name, sorted(options, key=lambda p: (not _is_argument(p), not p.required))


def _row(parameter: Any) -> list[str]:
    if _is_argument(parameter):
        left = _argument_usage(parameter)
    elif parameter.secondary_opts:
        left = f"--[no-]{parameter.opts[0].removeprefix('--')}"
    else:
        flags = sorted(parameter.opts, key=lambda flag: flag.startswith("--"))
        left = f"{', '.join(flags)} {metavar_of(parameter)}".rstrip()
    return _columns(f"  {left}", parameter.help or "", _LEFT)


def _columns(left: str, right: str, width: int) -> list[str]:
    """Put a flag beside its help; a long flag has lines of its own."""
    lines = textwrap.wrap(right, max(20, _width() - width - 1)) or [""]
    name, space = left.strip(), " " * (len(left) - len(left.lstrip()))
    styled = space + typer.style(name, bold=True)
    if len(left) >= width:
        return [styled, *(" " * (width + 1) + line for line in lines)]
    first = styled + " " * (width + 1 - len(left)) + lines[0]
    return [first.rstrip(), *(" " * (width + 1) + line for line in lines[1:])]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _width())


def _heading(text: str) -> str:
    return typer.style(text, bold=True, fg="cyan")


def _usage_line(usage: str) -> str:
    return usage.replace("Usage:", _heading("Usage:"), 1)


def _width() -> int:
    return min(_WIDEST, shutil.get_terminal_size((80, 24)).columns) - 1
