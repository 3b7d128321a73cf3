"""`rediff segment`."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rediffinet.clinic.cohort import Outcome


def segment(
    source: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="A case folder, or a folder of case folders.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Output folder; default: one named after the case.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder; default: the one in the package.")] = None,
    engine: Annotated[str, typer.Option(help="auto, or one that `rediff doctor` lists.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps S; default: the bundle's.")] = None,
    samples: Annotated[int | None, typer.Option(help="Noise samples K per window; default: the bundle's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    channels: Annotated[str | None, typer.Option(help="Contrasts of ID_0000…0003, e.g. t1n,t1c,t2w,t2f.")] = None,
    t1n: Annotated[Path | None, typer.Option("--t1n", help="The native T1 image.")] = None,
    t1c: Annotated[Path | None, typer.Option("--t1c", help="The contrast-enhanced T1 image.")] = None,
    t2w: Annotated[Path | None, typer.Option("--t2w", help="The T2 image.")] = None,
    t2f: Annotated[Path | None, typer.Option("--t2f", help="The T2 FLAIR image.")] = None,
    baseline_mask: Annotated[
        Path | None,
        typer.Option(
            "--baseline-mask",
            help="Refine this label map instead of the bundle's baseline; for several cases a folder of X.nii.gz.",
        ),
    ] = None,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write X-probabilities.nii.gz.")
    ] = False,
    save_uncertainty: Annotated[bool, typer.Option("--save-uncertainty", help="Write X-uncertainty.nii.gz.")] = False,
    preview: Annotated[bool, typer.Option(help="Write X-preview.png.")] = True,
    refine_everywhere: Annotated[
        bool, typer.Option("--refine-everywhere", help="Refine the whole brain (slow).")
    ] = False,
    postprocess: Annotated[bool, typer.Option(help="Remove small components.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report (a list for several cases) on stdout.")
    ] = False,
) -> None:
    """Segment a case: label map, baseline, report and preview, on the input's own grid."""
    from rediffinet.cli.progress import stages
    from rediffinet.clinic.cohort import CaseInput, list_inputs, segment_case, segment_cohort
    from rediffinet.errors import CaseError, ConfigError
    from rediffinet.io.outputs import OutputChoice
    from rediffinet.segmenter import Segmenter, SegmentOptions

    explicit = {
        name: path for name, path in zip(("t1n", "t1c", "t2w", "t2f"), (t1n, t1c, t2w, t2f), strict=True) if path
    }
    if bool(explicit) == (source is not None):
        raise CaseError("Give either INPUT (a case folder or a folder of case folders) or --t1n --t1c --t2w --t2f.")
    contrasts = channels.split(",") if channels else None
    inputs = [CaseInput(files=explicit)] if source is None else list_inputs(source, contrasts)
    if baseline_mask is not None and len(inputs) > 1 and not baseline_mask.is_dir():
        message = (
            f"--baseline-mask {baseline_mask} is one file for {len(inputs)} cases. Give a folder that holds a mask of "
            "each, named like the case (X.nii.gz), or segment one case."
        )
        raise ConfigError(message)
    options = SegmentOptions(steps, samples, refine_everywhere, postprocess)
    choice = OutputChoice(preview, save_uncertainty, save_probabilities, overwrite)
    outcomes = []
    with Segmenter.open(bundle, engine, device, threads, precision) as segmenter, stages() as progress:
        segmenter.plan(options)  # a wrong option is the command's error, not every case's
        if baseline_mask is not None:
            segmenter.check_takes_baseline()
        run = partial(
            segment_case,
            segmenter,
            out=out,
            seed=seed,
            options=options,
            choice=choice,
            progress=progress,
            mask=baseline_mask,
        )
        # so is the error of a case that is alone
        for outcome in [run(inputs[0])] if len(inputs) == 1 else segment_cohort(inputs, run):
            outcomes.append(outcome)
            _tell(outcome, quiet=as_json)
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    if as_json:
        content = [report.to_dict() for report in reports]
        typer.echo(json.dumps(content[0] if len(inputs) == 1 else content, indent=2))
    if len(reports) < len(outcomes):
        failed = ", ".join(outcome.source for outcome in outcomes if outcome.report is None)
        message = (
            f"{len(outcomes) - len(reports)} of {len(outcomes)} cases failed, {len(reports)} were written: {failed}"
        )
        typer.echo(message, err=True)
        raise typer.Exit(3)


def _tell(outcome: "Outcome", *, quiet: bool) -> None:
    report = outcome.report
    if report is None:
        typer.echo(f"{outcome.source}: failed: {outcome.error}", err=True)
        return
    for warning in report.warnings:
        typer.echo(f"{report.case}: warning ({warning.code}): {warning.message}", err=True)
    if quiet:
        return
    refined, baseline, sampling = report.volumes_ml.refined, report.volumes_ml.baseline, report.sampling
    before = f" (baseline {baseline.WT:.1f}, {baseline.TC:.1f}, {baseline.ET:.1f})" if baseline is not None else ""
    often = f" × {sampling.samples} samples × {sampling.steps} steps" if sampling.samples else ""
    typer.echo(
        f"{report.case}: WT {refined.WT:.1f} ml, TC {refined.TC:.1f} ml, ET {refined.ET:.1f} ml{before}; "
        f"{report.engine.used} on {report.engine.device} ({report.engine.precision}), "
        f"{sampling.windows} windows{often}, {report.seconds.total:.1f} s → {outcome.folder}"
    )
