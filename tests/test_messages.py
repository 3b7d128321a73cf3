"""What messages say to do: in the words of Python outside the command line; each command in them exists.

Everything is collected from the sources: every string that is not a docstring, with `…` for what a message fills in.
"""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer

from rediffinet.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
GROUP = typer.main.get_command(app)
FLAG = re.compile(r"(?<![\w`-])(?:--(?:[a-z][a-z-]*|…)|-[a-z](?![\w-]))")
COMMAND = re.compile(r"\b(?:rediff [a-z]+|pip install|torchrun|ray start)\b[^\n`]*")
INSTALL = re.compile(r"pip install[^\n]*?'rediffinet\[([a-z,-]+)\]'")


@dataclass(frozen=True)
class Said:
    """One string of a module."""

    where: str
    text: str


def strings(folder: str) -> Iterator[Said]:
    """Every string but docstrings in the modules of a folder; joined strings whole."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        nodes, name = list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))), path.relative_to(ROOT)
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        skipped |= {id(part) for node in nodes if _makes_options(node) for part in ast.walk(node)}
        skipped |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in nodes:
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                text = "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                yield Said(where, text)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                yield Said(where, node.value)


def _makes_options(node: ast.AST) -> bool:
    """A module that is run by itself has flags of its own."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"


@cache
def said() -> dict[str, list[Said]]:
    """The strings by folder."""
    return {folder: list(strings(folder)) for folder in ("rediffinet", "engines", "export", "cli", "ext")}


def outside() -> list[Said]:
    """Those that are not of the command line."""
    return [one for folder, found in said().items() if folder != "cli" for one in found]


def anywhere() -> list[Said]:
    return [one for found in said().values() for one in found]


def test_strings_are_found() -> None:
    assert len(outside()) > 2000
    assert any("overwrite=True" in one.text for one in outside())


def test_python_users_never_read_a_flag() -> None:
    """But in a whole command, which stands for itself."""
    wrong = [f"{one.where}: {one.text}" for one in outside() if FLAG.search(COMMAND.sub("", one.text))]
    assert not wrong, "\n".join(wrong)


def commands() -> Iterator[tuple[str, str]]:
    for one in anywhere():
        for match in COMMAND.finditer(one.text):
            if match[0].startswith("rediff ") and FLAG.search(match[0]):
                yield one.where, re.split(r"[.;)](?:\s|$)| \(|: ", match[0])[0]


def test_commands_in_messages_have_the_options_they_name() -> None:
    found, wrong = list(commands()), []
    for where, line in found:
        words = shlex.split(line.replace("'", ""))
        command = GROUP
        for word in words[1:]:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if command is GROUP or not given <= known:
            wrong.append(f"{where}: {line}")
    assert found
    assert not wrong, "\n".join(wrong)


def test_commands_named_in_messages_exist() -> None:
    named = {match[1] for one in anywhere() for match in re.finditer(r"`rediff ([a-z]+)", one.text)}
    assert named and named <= set(GROUP.commands)


def test_extras_named_in_messages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for one in outside() for match in INSTALL.finditer(one.text) for extra in match[1].split(",")}
    calls = re.compile(r"MissingExtraError\(\s*[^,()]*(?:\([^()]*\))?[^,()]*,\s*[^,]+,\s*\"([a-z-]+)\"\s*,?\s*\)")
    for folder in said():
        for path in (ROOT / folder).rglob("*.py"):
            named |= set(calls.findall(path.read_text(encoding="utf-8")))
    assert len(named) > 3 and named <= set(extras), named - set(extras)
