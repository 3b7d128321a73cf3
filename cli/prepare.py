"""`rediff prepare`."""

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[
        Path | None, typer.Argument(metavar="RAW", help="A folder with an image of each contrast, or DICOM.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Case folder; default: CASE-prepared.")] = None,
    t1n: Annotated[Path | None, typer.Option("--t1n", help="The native T1 image.")] = None,
    t1c: Annotated[Path | None, typer.Option("--t1c", help="The contrast-enhanced T1 image.")] = None,
    t2w: Annotated[Path | None, typer.Option("--t2w", help="The T2 image.")] = None,
    t2f: Annotated[Path | None, typer.Option("--t2f", help="The T2 FLAIR image.")] = None,
    channels: Annotated[str | None, typer.Option(help="Contrasts of ID_0000…0003, e.g. t1n,t1c,t2w,t2f.")] = None,
    study: Annotated[str | None, typer.Option(help="Name or UID of one of several studies in DICOM.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the case; default: from the names of the files.")] = None,
    brain_mask: Annotated[
        Path | None, typer.Option("--brain-mask", help="Brain mask on t1c's own grid, instead of the network's.")
    ] = None,
    engine: Annotated[str, typer.Option(help="For the brain: auto, or one that `rediff doctor` lists.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="One contrast may be absent; without t1c, t1n is the reference.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier preparation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on stdout.")] = False,
) -> None:
    """Raw scans of one patient → a case: registered to t1c, upright at 1 mm, brain only.

    RAW may hold DICOM (also a DICOMDIR or a zip). Which image is which contrast is told by names and tags; where they
    do not decide, --t1c and the like do: a file, or the number of a series in DICOM.
    """
    from rediffinet.cli.progress import stages
    from rediffinet.errors import CaseError, ConfigError
    from rediffinet.io.dicom.files import is_dicom
    from rediffinet.io.dicom.study import read_study
    from rediffinet.io.nifti import read_nifti
    from rediffinet.prepare.files import check_case_folder, read_raw, save_prepared
    from rediffinet.prepare.pipeline import prepare as run

    explicit = {key: path for key, path in zip(("t1n", "t1c", "t2w", "t2f"), (t1n, t1c, t2w, t2f), strict=True) if path}
    dicom = source is not None and is_dicom(source)
    if study is not None and not dicom:
        raise ConfigError("--study is of DICOM input, and this is none. Leave it out.")
    if source is None and not explicit:
        raise CaseError("Give RAW (a folder), or --t1n --t1c --t2w --t2f.")
    if dicom and source is not None:  # these flags name series then
        given = {contrast: str(chosen) for contrast, chosen in explicit.items()}
        found = read_study(source, given, study=study, allow_missing=allow_missing)
        case, images = name or found.name, found.volumes
    else:
        order = channels.split(",") if channels else None
        case, images = read_raw(source, explicit or None, order, name, allow_missing=allow_missing)
    folder = Path(f"{case}-prepared") if out is None else out
    check_case_folder(folder, case, images, overwrite=overwrite)
    mask = None if brain_mask is None else read_nifti(brain_mask)
    with stages() as progress:
        prepared = run(
            case,
            images,
            brain_mask=mask,
            engine=engine,
            device=device,
            threads=threads,
            progress=progress,
            allow_missing=allow_missing,
        )
    save_prepared(prepared, folder, overwrite=overwrite)
    report = prepared.report
    for warning in report.warnings:
        typer.echo(f"{case}: warning ({warning.code}): {warning.message}", err=True)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    elif report.passed_through:
        typer.echo(f"{case}: prepared already, copied as it is → {folder}")
    else:
        assert report.brain is not None
        moves = ", ".join(
            f"{contrast} {series.moved_mm:.0f} mm {series.degrees:.0f}°"
            for contrast, series in report.series.items()
            if contrast != report.reference
        )
        typer.echo(
            f"{case}: brain {report.brain.volume_ml:.0f} ml ({report.brain.name}); onto {report.reference}: {moves}; "
            f"{report.seconds['total']:.0f} s → {folder}"
        )
