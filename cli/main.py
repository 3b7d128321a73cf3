"""The `rediff` command: one module per subcommand, each imported by its decorator alone and lazy inside."""

import sys
import traceback

import typer

from rediffinet.cli.average import average
from rediffinet.cli.compare import compare
from rediffinet.cli.crossval import calibrate, crossval
from rediffinet.cli.doctor import doctor
from rediffinet.cli.evaluate import evaluate
from rediffinet.cli.export import export
from rediffinet.cli.figure import figure
from rediffinet.cli.info import info
from rediffinet.cli.phantom import phantom
from rediffinet.cli.plan import plan
from rediffinet.cli.segment import segment
from rediffinet.cli.tables import tables
from rediffinet.cli.train import train
from rediffinet.errors import RediffError

app = typer.Typer(
    name="rediff",
    help="Brain-tumour segmentation that gets the boundary right. Research use only, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    *(segment, evaluate, compare, tables, phantom),
    *(train, average, crossval, calibrate, export, plan, info, doctor),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(figure, name="figure")


@app.callback()
def _root() -> None:
    """Brain-tumour segmentation that gets the boundary right. Research use only, not a medical device."""


def main() -> None:
    """Entry point: errors the user can fix exit with 2 and one message, ours with 1 and a traceback."""
    try:
        app()
    except RediffError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        typer.echo("This is a bug in rediffinet; please report it with the text above.", err=True)
        sys.exit(1)
