"""The Dockerfiles, which are not built here: what they name is there, and what they start is a command that exists."""

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer.main

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt", "ext/_flip.pyx", "cli/main.py")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, the rest of its line) in order."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def one(path: Path, instruction: str) -> str:
    (found,) = [rest for name, rest in instructions(path) if name == instruction]
    return found


def ignored(name: str) -> bool:
    """Whether .dockerignore leaves a file out: a pattern is of the root, but for one that begins with `**/`."""
    parts = name.split("/")
    for pattern in (ROOT / ".dockerignore").read_text().split():
        deep, plain = pattern.startswith("**/"), pattern.removeprefix("**/")
        if any(fnmatch.fnmatchcase(part, plain) for part in (parts if deep else parts[:1])):
            return True
    return False


@pytest.fixture(params=FILES, ids=lambda path: path.suffix[1:])
def dockerfile(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_both_are_there() -> None:
    assert [path.suffix for path in FILES] == [".cpu", ".gpu"]


def test_what_is_copied_is_there(dockerfile: Path) -> None:
    stages = [rest.partition(" AS ")[2] for name, rest in instructions(dockerfile) if name == "FROM"]
    for name, rest in instructions(dockerfile):
        if name in ("COPY", "ADD"):
            words = rest.split()
            stage = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
            sources = [word for word in words if not word.startswith("--")][:-1]
            assert set(stage) <= set(stages)
            assert stage or all((ROOT / source).exists() and not ignored(source) for source in sources)


def test_the_context_holds_what_the_build_reads() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = tables["tool"]["setuptools"]["package-data"]["rediffinet"]
    files = [path for pattern in data for path in (ROOT / "rediffinet").glob(pattern) if path.is_file()]
    assert len(files) > 10
    for name in (*NEEDED, *(path.relative_to(ROOT).as_posix() for path in files)):
        assert (ROOT / name).is_file() and not ignored(name), name
    assert ignored(".git/config") and ignored("ext/_flip.cpython-311-x86_64-linux-gnu.so")


def test_the_extras_and_the_versions_that_are_installed(dockerfile: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (line,) = [rest for name, rest in instructions(dockerfile) if name == "RUN" and "pip install" in rest]
    words = shlex.split(line.partition("pip install")[2])
    (named,) = [re.fullmatch(r"\.\[(.+)\]", word) for word in words if word.startswith(".")]
    assert named is not None
    asked = set(named[1].split(","))
    assert asked <= set(extras) and {dockerfile.suffix[1:], "serve", "prepare", "dicom"} <= asked
    assert (ROOT / words[words.index("-c") + 1]).is_file()


def test_the_command_exists_and_the_health_check_asks_where_it_listens(dockerfile: Path) -> None:
    pytest.importorskip("starlette", reason="needs the extra [serve]")
    from rediffinet.cli.main import app
    from rediffinet.clinic.service.gate import OPEN_TO_ALL
    from rediffinet.clinic.service.settings import LOOPBACK

    assert json.loads(one(dockerfile, "ENTRYPOINT")) == ["rediff"]
    name, *arguments = json.loads(one(dockerfile, "CMD"))
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, arguments).params
    assert given["host"] not in LOOPBACK and not given["without_token"]  # it asks for a token
    assert str(given["data"]) == one(dockerfile, "VOLUME")
    assert str(given["port"]) == one(dockerfile, "EXPOSE")
    asked = urlsplit(re.search(r"http://[^']+", one(dockerfile, "HEALTHCHECK"))[0])  # type: ignore[index]
    assert (asked.hostname, asked.port) == ("127.0.0.1", given["port"])
    assert asked.path in OPEN_TO_ALL
    user = one(dockerfile, "USER")
    made = [rest for name, rest in instructions(dockerfile) if name == "RUN" and "useradd" in rest]
    assert user != "root" and made and f" {user} " in made[0] and f"chown {user} {one(dockerfile, 'VOLUME')}" in made[0]
