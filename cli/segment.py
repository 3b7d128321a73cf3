"""`rediff segment`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rediffinet.cli.words import command_from, in_flags

if TYPE_CHECKING:
    from rediffinet.clinic.cohort import CaseInput, Order, Outcome
    from rediffinet.clinic.inputs import Shard
    from rediffinet.clinic.trace import Trace
    from rediffinet.segmenter import Progress, Segmenter
    from rediffinet.task import Task


def segment(
    context: typer.Context,
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
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="CONVENTION",
            help="What the numbers in the masks mean: brats2021, brats2024, nnunet …; default: BraTS, told from all.",
        ),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Prepare raw scans first: register, extract the brain, bring to 1 mm.")
    ] = False,
    brain_mask: Annotated[
        Path | None, typer.Option("--brain-mask", help="With --prepare: brain mask on t1c's own grid.")
    ] = None,
    native: Annotated[
        str,
        typer.Option(
            help="Original series of a prepared case to write results for: reference (t1c), t1c,t2f, all, none."
        ),
    ] = "reference",
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="One contrast may be absent, where the bundle has scores of such cases."),
    ] = False,
    study: Annotated[str | None, typer.Option(help="For DICOM: name or UID of one of several studies.")] = None,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="For DICOM: write a segmentation object on the grid of each --native.")
    ] = False,
    dicom_labelmap: Annotated[
        bool, typer.Option("--dicom-labelmap", help="The same as a LABELMAP, which not every viewer knows.")
    ] = False,
    dicom_rtstruct: Annotated[bool, typer.Option("--dicom-rtstruct", help="For DICOM: write contours.")] = False,
    dicom_sr: Annotated[
        bool, typer.Option("--dicom-sr", help="For DICOM: write the segmentation and a report of volumes (TID 1500).")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write X-probabilities.nii.gz.")
    ] = False,
    save_uncertainty: Annotated[bool, typer.Option("--save-uncertainty", help="Write X-uncertainty.nii.gz.")] = False,
    save_margin: Annotated[
        bool,
        typer.Option("--save-margin", help="Write X-margin.nii.gz: where the boundaries lie with 90 %."),
    ] = False,
    preview: Annotated[bool, typer.Option(help="Write X-preview.png.")] = True,
    html_report: Annotated[
        bool, typer.Option("--html-report", help="Write X-report.html: pictures, volumes, warnings, provenance.")
    ] = False,
    refine_everywhere: Annotated[
        bool, typer.Option("--refine-everywhere", help="Refine the whole brain (slow).")
    ] = False,
    postprocess: Annotated[bool, typer.Option(help="Remove small components.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave finished cases as they are; those done with other images, bundle or options are done again.",
        ),
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="i/N", help="Only every N-th case, from the i-th: one of N jobs.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share a cohort and the cores; each holds the model.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Share a cohort on a Ray cluster: its address, auto, or nothing to start one here.",
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write where the seconds go: a trace that a browser opens.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report (a list for several cases) on stdout.")
    ] = False,
) -> None:
    """Segment a case: label map, baseline, report and preview, on the input's own grid."""
    from rediffinet import lean

    with lean.importing():
        from rediffinet.bundle import open_bundle, read_manifest
        from rediffinet.errors import CaseError, ConfigError
        from rediffinet.opened import Opened

    if overwrite and skip_existing:
        message = "--overwrite replaces what --skip-existing leaves as it is. Give one of the two."
        raise ConfigError(message)
    if profile is not None and (processes > 1 or ray is not None):
        raise ConfigError("--profile is of one process. Leave --processes and --ray out.")
    lean.leave_out_converters()
    begun = None
    if processes == 1 and ray is None:  # the graphs load while the rest is imported and the images are read
        begun = context.with_resource(Opened(open_bundle(bundle), engine, device, threads, precision))
    with lean.importing():
        lean.import_nibabel_alone()
        from rediffinet.clinic.cohort import CaseInput, Order, segment_cohort
        from rediffinet.clinic.inputs import Shard, check_one_kind, list_cohort, was_prepared
        from rediffinet.clinic.workers import Opening, segment_in_processes
        from rediffinet.io.dicom.files import is_dicom
        from rediffinet.io.outputs import OutputChoice
        from rediffinet.segmenter import Segmenter, SegmentOptions

    explicit = {
        name: path for name, path in zip(("t1n", "t1c", "t2w", "t2f"), (t1n, t1c, t2w, t2f), strict=True) if path
    }
    objects = dicom_seg or dicom_labelmap or dicom_rtstruct or dicom_sr
    dicom = source is not None and (prepare or objects) and is_dicom(source)
    if objects and not dicom:
        raise ConfigError("DICOM objects are written for DICOM input alone, for they refer to its images.")
    chosen: dict[str, str] = {}
    if source is not None and (prepare or dicom):  # these flags then name series or files of the folder
        chosen, explicit = {contrast: str(path) for contrast, path in explicit.items()}, {}
    if ray is not None and source is None and not explicit and Path(ray).exists():
        message = f"--ray {ray}: that is a path, not the address of a cluster, and INPUT is not given."
        raise ConfigError(f"{message}\nExpected the cases before it: rediff segment {ray} … --ray")
    if bool(explicit) == (source is not None):
        raise CaseError("Give either INPUT (a case folder or a folder of case folders) or --t1n --t1c --t2w --t2f.")
    if study is not None and not dicom:
        raise ConfigError("--study is of DICOM input with --prepare. Leave it out, or give both.")
    if dicom and skip_existing:
        raise ConfigError("--skip-existing compares files, which a study has too many of. Use --overwrite for DICOM.")
    contrasts = channels.split(",") if channels else None
    share = Shard.parse(shard) if shard is not None else Shard()
    manifest = read_manifest(bundle) if begun is None else begun.bundle.manifest
    task = manifest.recipe.task
    if save_margin:
        manifest.check_gives_margin(given=baseline_mask is not None)
    apart, empty = (out, baseline_mask), list[Path]()
    if dicom and source is not None:
        check_one_kind(source, task, apart)
    if source is None:
        inputs = [CaseInput(files=explicit, task=task, allow_missing=allow_missing)]
    elif dicom:
        from rediffinet.io.dicom.study import study_name

        inputs = [CaseInput(folder=source, given=study_name(source, study), task=task, allow_missing=allow_missing)]
    elif prepare:
        from rediffinet.prepare.names import list_raw

        inputs = []
        listed, empty = list_raw(source, contrasts, chosen, allow_missing=allow_missing, apart=apart)
        for folder, found in listed:
            files, name = (None, None) if found is None else (found.files, found.name)
            inputs.append(CaseInput(folder, files, contrasts, name, task, allow_missing))
    else:
        try:
            inputs, empty = list_cohort(source, contrasts, task, allow_missing=allow_missing, apart=apart)
        except CaseError:
            if not is_dicom(source):
                raise
            message = f"{source} holds DICOM, which is prepared before it is segmented."
            raise CaseError(
                f"{message}\nUse `prepare=True`, and `dicom_seg=True` for an object that goes back."
            ) from None
    for folder in empty:
        typer.echo(f"{folder}: holds no image and is no case", err=True)
    if baseline_mask is not None and len(inputs) > 1 and not baseline_mask.is_dir():
        message = (
            f"--baseline-mask {baseline_mask} is one file for {len(inputs)} cases. Give a folder that holds a mask of "
            "each, named like the case (X.nii.gz), or segment one case."
        )
        raise ConfigError(message)
    if brain_mask is not None and (not (prepare or dicom) or len(inputs) > 1):
        raise ConfigError("--brain-mask is for one case with --prepare; an already prepared case has its brain.")
    route = None
    folders = [given.folder for given in inputs if given.folder is not None]
    if prepare or dicom or any(map(was_prepared, folders)):  # else it is spared its imports
        from rediffinet.prepare.objects import DicomChoice
        from rediffinet.prepare.route import RawChoice, RawRoute

        kind: Literal["LABELMAP", "BINARY"] | None = "LABELMAP" if dicom_labelmap else "BINARY" if dicom_seg else None
        route = RawRoute(
            RawChoice(
                prepare or dicom,
                native,
                brain_mask,
                threads,
                save_uncertainty,
                overwrite,
                dicom,
                study,
                chosen if dicom else {},
                DicomChoice(kind, dicom_rtstruct, dicom_sr),
            )
        )
    order = Order(
        out,
        seed,
        SegmentOptions(steps, samples, refine_everywhere, postprocess),
        OutputChoice(preview, save_uncertainty, save_probabilities, overwrite, html_report, save_margin),
        baseline_mask,
        _mask_labels(baseline_mask, labels, inputs, task),
        skip_existing,
        route,
    )
    opening = Opening(bundle, engine, device, threads, precision)
    cases = share.of(inputs)
    if not cases:
        typer.echo(f"share {share.index}/{share.count} of {len(inputs)} cases holds none: nothing to do", err=True)
    if ray is not None and len(inputs) > 1:
        from rediffinet.clinic.on_ray import absolute, cluster, segment_on_ray

        on_cluster = partial(segment_on_ray, cases, absolute(order), opening, ray)
        with cluster(ray):  # before there is a table: where there is no cluster nothing is changed
            _cohort(lambda progress: on_cluster(), cases, order, share, as_json=as_json)
        return
    if begun is not None and len(inputs) > 1:
        begun.loaded()  # what does not load is the command's error, not every case's
    with opening.open() if begun is None else Segmenter.of(begun) as segmenter:
        segmenter.plan(order.options)  # a wrong option is the command's error, not every case's
        if baseline_mask is not None:
            segmenter.check_takes_baseline()
        if len(inputs) == share.count == 1:  # so is the error of a case that is alone
            _alone(segmenter, inputs[0], order, profile, as_json=as_json)
            return
        if processes == 1:
            run = partial(segment_cohort, segmenter, cases, order)
            with _profiled(segmenter, profile):
                _cohort(lambda progress: zip(cases, run(progress), strict=True), cases, order, share, as_json=as_json)
            return
    run_shared = partial(segment_in_processes, cases, order, opening, processes)
    _cohort(lambda progress: run_shared(), cases, order, share, as_json=as_json)


def _mask_labels(masks: Path | None, named: str | None, inputs: "list[CaseInput]", task: "Task") -> "Task | None":
    """The convention of the masks: the one that is named, else that of all of them together."""
    from rediffinet.errors import CaseError, ConfigError
    from rediffinet.io.masks import decide_masks
    from rediffinet.task import find_task

    if masks is None and named is not None:
        raise ConfigError("--labels tells how --baseline-mask is read, and there is none. Give both, or neither.")
    if masks is None:
        return None
    names = []
    for given in inputs if named is None else ():
        with suppress(CaseError):  # a case that is not whole fails when it is its turn
            names.append(given.name)
    found = find_task(named) if named is not None else decide_masks(masks, names, task)
    if found.name != task.name:
        typer.echo(f"The masks are read as '{found.name}' ({found.describe_labels()}).", err=True)
    return found


@contextmanager
def _profiled(segmenter: "Segmenter", profile: Path | None) -> "Iterator[Trace | None]":
    """A trace of the engine's calls, which is written at the end."""
    if profile is None:
        yield None
        return
    from rediffinet.clinic.trace import Trace

    trace = Trace()
    segmenter.watch(trace.graph)
    try:
        yield trace
    finally:
        segmenter.watch(None)
        trace.write(profile)


def _alone(segmenter: "Segmenter", given: "CaseInput", order: "Order", profile: Path | None, *, as_json: bool) -> None:
    from rediffinet.cli.progress import stages
    from rediffinet.clinic.cohort import segment_case

    with stages() as progress, _profiled(segmenter, profile) as trace:
        outcome = segment_case(segmenter, given, order, progress)
        if trace is not None and outcome.report is not None:
            trace.case(outcome.report)
    _tell(outcome, quiet=as_json)
    if as_json and outcome.report is not None:
        typer.echo(json.dumps(outcome.report.to_dict(), indent=2))


def _cohort(
    run: "Callable[[Progress], Iterator[tuple[CaseInput, Outcome]]]",
    inputs: "list[CaseInput]",
    order: "Order",
    share: "Shard",
    *,
    as_json: bool,
) -> None:
    from rediffinet.cli.progress import cohort_progress
    from rediffinet.clinic.interrupt import Interrupted
    from rediffinet.clinic.table import open_table
    from rediffinet.errors import RediffError

    found: dict[int, Outcome] = {}
    try:
        with open_table(inputs, order, share) as table, cohort_progress(len(inputs)) as (progress, advance):
            for given, outcome in run(progress):
                found[id(given)] = outcome
                table.add(given, outcome)
                _tell(outcome, quiet=as_json)
                advance()
    except (Interrupted, KeyboardInterrupt):
        _say_how_to_go_on(inputs, order)
        raise
    except RediffError as error:
        if not any(outcome.report for outcome in found.values()):
            raise
        typer.echo(in_flags(f"error: {error}", command_from(segment)), err=True)
        _say_how_to_go_on(inputs, order)
        raise typer.Exit(3) from None
    outcomes = [found[id(given)] for given in inputs]
    if as_json:
        reports = [outcome.report for outcome in outcomes if outcome.report is not None]
        typer.echo(json.dumps([report.to_dict() for report in reports], indent=2))
    failed = [outcome.source for outcome in outcomes if outcome.report is None]
    if failed:
        written = len(outcomes) - len(failed)
        message = f"{len(failed)} of {len(outcomes)} cases failed, {written} were written: {', '.join(failed)}"
        typer.echo(message, err=True)
        raise typer.Exit(3)


def _say_how_to_go_on(inputs: "list[CaseInput]", order: "Order") -> None:
    from rediffinet.clinic.cohort import count_finished

    finished = count_finished(inputs, order)
    message = f"{len(finished)} of {len(inputs)} cases are finished: {', '.join(finished) or 'none'}."
    typer.echo(f"{message} Start again with --skip-existing to go on.", err=True)


def _tell(outcome: "Outcome", *, quiet: bool) -> None:
    report = outcome.report
    if report is None:
        _tell_failure(outcome)
        return
    if outcome.skipped:
        typer.echo(f"{report.case}: finished before, skipped", err=True)
        return
    if outcome.again:
        typer.echo(f"{report.case}: was finished, done again: {', '.join(outcome.again)}", err=True)
    for warning in report.warnings:
        typer.echo(
            f"{report.case}: warning ({warning.code}): {in_flags(warning.message, command_from(segment))}", err=True
        )
    if quiet:
        return
    refined, baseline, sampling = report.volumes_ml.refined, report.volumes_ml.baseline, report.sampling
    before = "" if baseline is None else f" (baseline {', '.join(f'{ml:.1f}' for ml in baseline.by_region.values())})"
    volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in refined.by_region.items())
    often = f" × {sampling.samples} samples × {sampling.steps} steps" if sampling.samples else ""
    typer.echo(
        f"{report.case}: {volumes}{before}; "
        f"{report.engine.used} on {report.engine.device} ({report.engine.precision}), "
        f"{sampling.windows} windows{often}, {report.seconds.total:.1f} s → {outcome.folder}"
    )


def _tell_failure(outcome: "Outcome") -> None:
    from rediffinet.clinic.table import reason
    from rediffinet.errors import RediffError

    if isinstance(outcome.error, RediffError):
        typer.echo(f"{outcome.source}: failed: {in_flags(str(outcome.error), command_from(segment))}", err=True)
        return
    where = f"; the traceback is in {outcome.log}, please report it" if outcome.log is not None else ""
    typer.echo(f"{outcome.source}: failed: {reason(outcome.error)}{where}", err=True)
