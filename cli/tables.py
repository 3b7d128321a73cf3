"""`rediff tables`."""

from pathlib import Path
from typing import Annotated

import typer


def tables(
    results: Annotated[Path, typer.Argument(help="Scores per case: a CSV, or a folder with such files.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write into; made when absent.")],
    fold: Annotated[int | None, typer.Option(min=0, help="Fold of table 1; the lowest by default.")] = None,
    definition: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only rows whose definition holds this text.")
    ] = None,
) -> None:
    """Make tables of the shape of the paper's: all models on one fold, and the main ones over all folds.

    Each as Markdown, CSV and LaTeX (booktabs). Published numbers stand in rows of their own, as far as they are known.
    """
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.reports.paper_tables import all_folds_table, one_fold_table, to_markdown, write_paper_tables
    from rediffinet.scoring.results import read_results_in

    check_new_folder(out)
    scores = read_results_in(results, definition)
    made = [one_fold_table(scores, fold), all_folds_table(scores)]
    for path in write_paper_tables(made, out):
        typer.echo(f"wrote {path}", err=True)
    typer.echo("\n".join(to_markdown(table) for table in made), nl=False)
