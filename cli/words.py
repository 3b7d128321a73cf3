"""What a message says of arguments, in the words of the command line.

Errors and warnings speak of Python arguments, in backticks: `overwrite=True`, `steps=500`, `out`. Here they become the
flags of the command that ran, which knows its own names; what it has no flag for stays as it is.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import typer

_ARGUMENT = re.compile(r"`([a-z_][a-z0-9_.]*)(?:=([^`]*))?`")


def command_of(arguments: Sequence[str], group: Any) -> Any:
    """The command that the arguments of the program name; group: that of all commands."""
    found = group
    for word in arguments:
        commands = getattr(found, "commands", None)
        if commands is None or word not in commands:
            break
        found = commands[word]
    return found


def command_from(function: Callable[..., None]) -> Any:
    """The command that a function of `rediffinet.cli` becomes, for what it tells while it runs."""
    alone = typer.Typer(add_completion=False)
    alone.command()(function)
    return typer.main.get_command(alone)


def in_flags(text: str, command: Any) -> str:
    """The text with arguments in backticks as flags of a command, as `command_of` or a Typer context has it."""
    parameters = {parameter.name: parameter for parameter in command.params}
    return _ARGUMENT.sub(lambda found: _flag(found[0], found[1], found[2], parameters), text)


def _flag(text: str, name: str, value: str | None, parameters: dict[str, Any]) -> str:
    parameter = parameters.get(name)
    if parameter is None:
        return f"--set {name}={_bare(value)}" if "settings" in parameters and value is not None and _set(name) else text
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or name.upper())
    flag = max(parameter.opts, key=len)
    if value == "False" and parameter.secondary_opts:
        return str(max(parameter.secondary_opts, key=len))
    if value is None or value == "True":
        return str(flag)
    return f"{flag} {_bare(value)}"


def _set(name: str) -> bool:
    """Whether an argument is a setting of training."""
    from rediffinet.training.config import TrainConfig

    return name.partition(".")[0] in TrainConfig.model_fields


def _bare(value: str) -> str:
    return value.strip("\"'")
