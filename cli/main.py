"""The `rediff` command: one module per subcommand, each imported by its decorator alone and lazy inside."""

import sys
import traceback

import typer

from rediffinet.cli.average import average
from rediffinet.cli.bench import bench
from rediffinet.cli.compare import compare
from rediffinet.cli.convert import convert
from rediffinet.cli.crossval import calibrate, crossval
from rediffinet.cli.doctor import doctor
from rediffinet.cli.evaluate import evaluate
from rediffinet.cli.export import export
from rediffinet.cli.figure import figure
from rediffinet.cli.info import info
from rediffinet.cli.phantom import phantom
from rediffinet.cli.plan import plan
from rediffinet.cli.prepare import prepare
from rediffinet.cli.segment import segment
from rediffinet.cli.serve import serve
from rediffinet.cli.tables import tables
from rediffinet.cli.terminal import lasting_streams
from rediffinet.cli.train import train
from rediffinet.cli.view import view
from rediffinet.cli.words import command_of, in_flags
from rediffinet.clinic.interrupt import Interrupted, interruptible
from rediffinet.errors import RediffError

app = typer.Typer(
    name="rediff",
    help="Brain-tumour segmentation that gets the boundary right. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(segment, prepare, serve, view, evaluate, compare, tables, phantom),
    *(train, average, crossval, calibrate, export, convert, plan, info, doctor, bench),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(figure, name="figure")


@app.callback()
def _root() -> None:
    """Brain-tumour segmentation that gets the boundary right. Research use only, not a medical device."""


def main() -> None:
    """Entry point: errors the user can fix exit with 2 and one message, ours with 1 and a traceback.

    A signal that ends the command exits with 128 + its number, as a shell says it, after everything was cleaned up.
    """
    with lasting_streams() as unwritten:
        code = _run()
        failed = unwritten()
        if failed is not None and code == 0:
            typer.echo(
                f"error: what was to be printed could not be written: {failed}. Named files are there.", err=True
            )
            code = 2
    sys.exit(code)


def _arguments() -> list[str]:
    """The arguments, `--ray` without an address made whole: the parser knows no option whose value may be left out."""
    given = sys.argv[1:]
    for at, word in enumerate(given):
        if word == "--ray" and (at + 1 == len(given) or given[at + 1].startswith("-")):
            return [*given[: at + 1], "local", *given[at + 1 :]]
    return given


def _run() -> int:
    """The exit code."""
    try:
        with interruptible():
            app(_arguments())
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except RediffError as error:
        typer.echo(in_flags(f"error: {error}", command_of(sys.argv[1:], typer.main.get_command(app))), err=True)
        return 2
    except (Interrupted, KeyboardInterrupt) as signal:
        number = signal.number if isinstance(signal, Interrupted) else 2
        typer.echo(f"interrupted{f' ({signal})' if str(signal) else ''}; nothing half-written is left", err=True)
        return 128 + number
    except Exception:
        traceback.print_exc()
        typer.echo("This is a bug in rediffinet; please report it with the text above.", err=True)
        return 1
    return 0
