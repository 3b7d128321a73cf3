"""`rediff evaluate`."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map, or a folder of label maps or case folders.")],
    references: Annotated[Path, typer.Argument(help="The expert's label map, or a folder of such, by case name.")],
    protocol: Annotated[
        str, typer.Option(help="brats2023 (= brats2023-gli), brats2023-ssa, -ped, -men, -met, legacy or paper.")
    ] = "brats2023",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Table to write: .csv (and a -summary.csv beside it), .json or .md."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cases at a time.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Score label maps against references: Dice, HD95 and lesion-wise scores, each with its definition.

    A missed region never drops out of a mean: it counts with the protocol's penalty, and is counted in the table.
    """
    from rediffinet.cli.progress import stages
    from rediffinet.errors import CaseError
    from rediffinet.metrics import find_protocol
    from rediffinet.scoring.evaluation import evaluate_cohort, find_pairs
    from rediffinet.scoring.tables import (
        case_rows,
        check_table_path,
        conversions,
        markdown,
        summary_markdown,
        to_json,
        write_tables,
    )

    rules = find_protocol(protocol)
    if out is not None:
        check_table_path(out)
    pairs = find_pairs(predictions, references)
    with stages() as progress:
        done: list[str] = []

        def advance(case: str) -> None:
            done.append(case)
            progress("evaluate", len(done), len(pairs))

        scores = evaluate_cohort(pairs, rules, workers=workers, on_case=advance)
    if not scores.cases:
        first = scores.failures[0]
        more = f"\n({len(pairs)} cases failed, none could be scored.)" if len(pairs) > 1 else ""
        raise CaseError(f"{first.case}: {first.message}{more}")
    if out is not None:
        for path in write_tables(scores, out):
            typer.echo(f"wrote {path}", err=True)
    for line in conversions(scores):
        typer.echo(f"converted: {line}", err=True)
    if as_json:
        typer.echo(to_json(scores), nl=False)
    else:
        alone = f"{markdown(case_rows(scores))}\n" if len(scores.cases) == 1 else ""
        typer.echo(alone + summary_markdown(scores), nl=False)
    if scores.failures:
        for failure in scores.failures:
            typer.echo(f"{failure.case}: failed: {failure.message}", err=True)
        typer.echo(f"{len(scores.failures)} of {len(pairs)} cases failed, {len(scores.cases)} were scored.", err=True)
        raise typer.Exit(3)
