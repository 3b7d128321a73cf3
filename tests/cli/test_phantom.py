"""`rediff phantom` as a command function, registered on a bare app."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rediffinet.cli.phantom import phantom
from rediffinet.errors import ConfigError, OutputError

SMALL = ["--shape", "40", "44", "36"]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(phantom)
    return app


def test_writes_cases_and_prints_their_folders(app: typer.Typer, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path), "--cases", "2", "--seed", "3", *SMALL], catch_exceptions=False)
    assert result.exit_code == 0
    folders = [Path(line) for line in result.stdout.split()]
    assert folders == sorted(tmp_path.iterdir())
    assert all(len(list(folder.glob("*.nii.gz"))) == 5 for folder in folders)


def test_second_run_needs_overwrite(app: typer.Typer, tmp_path: Path) -> None:
    command = [str(tmp_path), *SMALL]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert isinstance(CliRunner().invoke(app, command).exception, OutputError)
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("refused", "told"),
    [(["--tumour", "cyst", *SMALL], "non-enhancing"), (["--shape", "4", "4", "4"], "at least 32 voxels")],
)
def test_what_cannot_be_drawn_is_told_and_leaves_no_folder(
    app: typer.Typer, tmp_path: Path, refused: list[str], told: str
) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "new"), *refused])
    assert isinstance(result.exception, ConfigError)
    assert told in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_zero_cases_is_a_usage_error(app: typer.Typer, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, [str(tmp_path), "--cases", "0"]).exit_code == 2
