"""`rediff figure`: pictures of one case, of training runs and of calibration."""

from pathlib import Path
from typing import Annotated

import typer

figure = typer.Typer(
    help="Draw a case before and after refinement, training curves, or a reliability diagram.", no_args_is_help=True
)


@figure.command()
def overlay(
    case: Annotated[Path, typer.Argument(help="The case folder.")],
    baseline: Annotated[Path, typer.Argument(help="Label map before the refinement.")],
    refined: Annotated[Path, typer.Argument(help="Label map after it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Figure to write, .png.")],
    reference: Annotated[
        Path | None, typer.Option(help="The expert's label map; by default the case's own segmentation.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="WT, TC or ET, or another task's; WT by default.")] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Background: t1n, t1c, t2w or t2f; t2f for WT and t1c for others by default.")
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME|FILE.json", help="Tumour, contrasts and label values.")
    ] = "glioma-2023",
    labels: Annotated[
        str | None, typer.Option(metavar="CONVENTION", help="What the numbers in the label maps mean: nnunet, …")
    ] = None,
) -> None:
    """Draw what the refinement put right and what it broke, in three planes through the largest change."""
    from rediffinet.cli.paths import check_new_file
    from rediffinet.reports.drawing import check_figure_path
    from rediffinet.reports.overlay import write_overlay
    from rediffinet.task import find_task

    check_figure_path(out)
    check_new_file(out)
    tumour = find_task(task)
    convention = find_task(labels) if labels is not None else None
    region = region or tumour.region_names[tumour.role("whole") or 0]
    counts = write_overlay(
        case,
        baseline,
        refined,
        out,
        reference=reference,
        region=region,
        contrast=contrast,
        task=tumour,
        convention=convention,
    )
    typer.echo(f"wrote {out}", err=True)
    typer.echo(
        f"{region}: {counts['fixed']} voxels fixed, {counts['broken']} broken, "
        f"{counts['still_wrong']} wrong before and after"
    )


@figure.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of `rediff train`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Figure to write, .png.")],
) -> None:
    """Draw loss and learning rate of runs, and Dice and HD95 of their validation where there is one."""
    from rediffinet.cli.paths import check_new_file
    from rediffinet.reports.curves import write_curves
    from rediffinet.reports.drawing import check_figure_path

    check_figure_path(out)
    check_new_file(out)
    write_curves(runs, out)
    typer.echo(f"wrote {out}", err=True)


@figure.command()
def reliability(
    uncertainty: Annotated[Path, typer.Argument(help="MODEL-uncertainty.json of `rediff calibrate`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Figure to write, .png.")],
) -> None:
    """Draw how often voxels were wrong against the stated probability that they are, before and after calibration."""
    from rediffinet.cli.paths import check_new_file
    from rediffinet.reports.drawing import check_figure_path
    from rediffinet.reports.reliability import write_reliability

    check_figure_path(out)
    check_new_file(out)
    write_reliability(uncertainty, out)
    typer.echo(f"wrote {out}", err=True)
