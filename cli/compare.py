"""`rediff compare`."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    files: Annotated[
        list[Path], typer.Argument(metavar="A.csv [B.csv]", help="Scores per case of A and of B, or one file of both.")
    ],
    a: Annotated[str | None, typer.Option("--a", metavar="MODEL", help="Model A, where a file holds several.")] = None,
    b: Annotated[str | None, typer.Option("--b", metavar="MODEL", help="Model B, likewise.")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Go on with the predictions that both have; how many were dropped is said.")
    ] = False,
    definition: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only rows whose definition holds this text.")
    ] = None,
    interval: Annotated[str, typer.Option(help="Bootstrap interval: bca or percentile.")] = "bca",
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Table to write: .md, .csv or .json.")] = None,
    qq: Annotated[Path | None, typer.Option("--qq", help="Q-Q plot of the paired differences to write, .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Is model B better than model A? Paired tests and bootstrap intervals of HD95 and Dice, per region and fold.

    One-sided: HD95 of B is lower, Dice of B is higher. Values of several seeds are averaged per case first.
    """
    from typing import Literal, cast

    from rediffinet.cli.paths import check_new_file
    from rediffinet.reports.comparison import compare, read_pair
    from rediffinet.reports.comparison_tables import to_json, to_text, write_comparison
    from rediffinet.reports.drawing import check_figure_path
    from rediffinet.reports.quantiles import write_quantile_plot
    from rediffinet.reports.statistics import Bootstrap
    from rediffinet.scoring.tables import check_table_path

    if out is not None:
        check_table_path(out)
        check_new_file(out)
    if qq is not None:
        check_figure_path(qq)
        check_new_file(qq)
    bootstrap = Bootstrap(cast("Literal['bca', 'percentile']", interval), resamples=resamples, seed=seed)
    comparison = compare(*read_pair(files, a, b, definition), common=common, bootstrap=bootstrap)
    if qq is not None:
        write_quantile_plot(comparison, qq)
        typer.echo(f"wrote {qq}", err=True)
    if out is not None:
        write_comparison(comparison, out)
        typer.echo(f"wrote {out}", err=True)
    typer.echo(to_json(comparison) if as_json else to_text(comparison), nl=False)
