"""`rediff average`."""

from pathlib import Path
from typing import Annotated

import typer


def average(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders in the order of training, each begun with that before."),
    ],
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
) -> None:
    """Make one run whose weights are the mean of several, such as a network before and after it was trained on."""
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.errors import MissingExtraError

    try:
        from rediffinet.training.average import average_runs
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", str(error.name), "train") from None

    check_new_folder(out)
    typer.echo(str(average_runs(runs, out)))
