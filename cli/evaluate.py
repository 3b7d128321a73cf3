"""`rediff evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rediffinet.cli.words import command_from, in_flags

if TYPE_CHECKING:
    from rediffinet.scoring.evaluation import Failure


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map, or a folder of label maps or case folders.")],
    references: Annotated[Path, typer.Argument(help="The expert's label map, or a folder of such, by case name.")],
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.json", help="Tumour that is scored: glioma-2023, pediatric-2024, …"),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="brats2023 (= brats2023-gli), brats2023-ssa, -ped, -men, -met, legacy or paper; the task's."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="CONVENTION",
            help="What the numbers in the files mean: a task, or brats2021, brats2024, nnunet …; where they differ, "
            "PREDICTIONS,REFERENCES.",
        ),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(help="What the names of the predictions have after CASE, as in -my-model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name in the table of scores; that of the predictions by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Table to write: .csv (and a -summary.csv beside it), .json or .md."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cases at a time.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")] = False,
) -> None:
    """Score label maps against references: Dice, HD95, surface Dice, lesion-wise scores, each with its definition.

    A missed region never drops out of a mean: it counts with the protocol's penalty, and is counted in the table.
    """
    from rediffinet.cli.paths import check_new_file
    from rediffinet.cli.progress import stages
    from rediffinet.errors import CaseError
    from rediffinet.metrics import find_protocol
    from rediffinet.metrics.protocols import task_of_protocol
    from rediffinet.scoring.evaluation import Rules, evaluate_cohort
    from rediffinet.scoring.pairs import find_pairs
    from rediffinet.scoring.tables import (
        cases_markdown,
        check_table_path,
        remarks,
        summary_markdown,
        to_json,
        write_tables,
    )
    from rediffinet.task import find_task

    named = find_protocol(protocol) if protocol is not None and task is None else None
    scored = find_task(task) if task is not None else task_of_protocol(named.name if named else "brats2023")
    sides = [find_task(name) for name in labels.split(",")] if labels is not None else [None]
    if len(sides) > 2:
        raise typer.BadParameter("expected one convention, or that of the predictions,that of the references")
    rules = Rules(scored, named or find_protocol(protocol, scored), sides[0], sides[-1])
    if out is not None:
        check_table_path(out)
        check_new_file(out)
    pairs = find_pairs(predictions, references, suffix)
    name = predictions.resolve().name
    with stages() as progress:
        done: list[str] = []

        def advance(case: str) -> None:
            done.append(case)
            progress("evaluate", len(done), len(pairs))

        scores = evaluate_cohort(
            pairs, rules, model=model or name.removesuffix(".gz").removesuffix(".nii"), workers=workers, on_case=advance
        )
    _log_traces(scores.failures, out)
    if not scores.cases and not any(failure.unpaired for failure in scores.failures):
        first = scores.failures[0]
        more = f"\n({len(pairs)} cases failed, none could be scored.)" if len(pairs) > 1 else ""
        raise CaseError(f"{first.case}: {first.message}{more}")
    if out is not None and scores.cases:
        for path in write_tables(scores, out):
            typer.echo(f"wrote {path}", err=True)
    for line in remarks(scores):
        typer.echo(f"note: {in_flags(line, command_from(evaluate))}", err=True)
    if as_json:
        typer.echo(to_json(scores), nl=False)
    elif scores.cases:
        alone = f"{cases_markdown(scores)}\n" if len(scores.cases) == 1 else ""
        typer.echo(alone + summary_markdown(scores), nl=False)
    if scores.failures:
        for failure in scores.failures:
            told = in_flags(failure.message, command_from(evaluate))
            typer.echo(f"{failure.case}: failed: {told}", err=True)
        typer.echo(f"{len(scores.failures)} of {len(pairs)} cases failed, {len(scores.cases)} were scored.", err=True)
        raise typer.Exit(3)


def _log_traces(failures: "Sequence[Failure]", out: Path | None) -> None:
    """Write what is not the user's error to a file beside the table, or in the current folder."""
    from rediffinet.files import write_atomically

    traces = "".join(f"{failure.case}\n{failure.trace}\n" for failure in failures if failure.trace)
    if traces:
        log = Path("evaluate-errors.log") if out is None else out.with_name(f"{out.stem}-errors.log")
        write_atomically(log, traces.encode(errors="backslashreplace"))
        typer.echo(f"the tracebacks of what is not your error are in {log}; please report them", err=True)
