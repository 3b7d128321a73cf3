"""One case in its own folder, the current one: what a client sent in `in`, what can be fetched in `out`."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rediffinet.clinic.case import Order, segment_case
from rediffinet.clinic.finished import read_finished
from rediffinet.clinic.inputs import CaseInput, check_one_kind, list_inputs
from rediffinet.clinic.service.archives import unpack
from rediffinet.clinic.service.dicomweb import fetch_study
from rediffinet.clinic.service.requests import NOT_RAW, CaseRequest, check_nifti, read_request
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.viewer.scene import prepared_images
from rediffinet.errors import CaseError, ConfigError
from rediffinet.io.dicom.files import is_dicom
from rediffinet.io.dicom.study import study_name
from rediffinet.io.dicom.write import Kind
from rediffinet.io.naming import ENDINGS
from rediffinet.io.outputs import OutputChoice
from rediffinet.prepare.objects import DicomChoice
from rediffinet.prepare.route import RawChoice, RawRoute
from rediffinet.segmenter import Segmenter
from rediffinet.task import Task

RESULTS = "results.zip"
UNPACKED = Path("archive")
NO_ARCHIVE = "This service has no archive to ask. Send the files, or have it started with `dicomweb=ADDRESS`."


def segment_received(
    segmenter: Segmenter, request: dict[str, Any], settings: Settings, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Segment what was received, and tell what was written; see `told_result`.

    request: of `parse_request`. progress: what it raises passes through. Raises CaseError for what cannot be used, and
    what `segment_case` and `prepare` raise; what was unpacked is gone then, unless the case was finished before.
    """
    try:
        return _segment(segmenter, request, settings, progress)
    except BaseException:
        if finished_name(Path()) is None:  # else the page shows these images
            shutil.rmtree(UNPACKED, ignore_errors=True)
        raise


def _segment(
    segmenter: Segmenter, request: dict[str, Any], settings: Settings, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    asked = read_request(request)
    given, dicom = _given(asked, settings, segmenter.bundle.manifest.recipe.task, progress)
    name = asked.name if request["named"] or given.files else given.name
    order = Order(
        Path("out"),
        asked.seed,
        asked.options,
        OutputChoice(
            preview=asked.preview,
            uncertainty=asked.uncertainty,
            probabilities=asked.probabilities,
            overwrite=True,
            html=asked.html_report,
            margin=asked.margin,
        ),
        route=_route(asked, settings, progress, dicom=dicom),
    )
    case = CaseInput(given.folder, given.files, given.channels, name, given.task, asked.allow_missing)
    segment_case(segmenter, case, order, progress)
    pack(Path("out"), _outputs(Path("out"), name).values())
    if dicom:  # what tells who the patient is goes first; the page shows the prepared images
        shutil.rmtree(UNPACKED)
        Path("in/archive.zip").unlink(missing_ok=True)
    return told_result(Path())


def forget_received(folder: Path) -> None:
    """Remove what was sent for a case that ended without a result: nothing can be done with it any more."""
    shutil.rmtree(folder / "in", ignore_errors=True)


def finished_name(folder: Path) -> str | None:
    """The name of the case when all its outputs are there."""
    out = folder / "out"
    for path in out.glob("*-report.json") if (out / RESULTS).is_file() else ():
        name = path.name.removesuffix("-report.json")
        if read_finished(out, name) is not None:
            return name
    return None


def told_result(folder: Path) -> dict[str, Any]:
    """What is told of a finished case: outputs by kind (below `out`), their sizes, images, volumes, warnings."""
    name = finished_name(folder)
    assert name is not None
    out = folder / "out"
    report = read_finished(out, name)
    assert report is not None
    files = _outputs(out, name)
    prepared = prepared_images(report.to_dict(), out)
    images = {contrast: path.relative_to(folder).as_posix() for contrast, path in prepared.items()}
    return {
        "case": name,
        "seconds": round(report.seconds.total, 2),
        "files": files,
        "bytes": {file: (out / file).stat().st_size for file in files.values()},
        "volumes_ml": report.to_dict()["volumes_ml"],
        "warnings": [warning.code for warning in report.warnings],
        "inputs": images or {entry.contrast: entry.path for entry in report.inputs if (folder / entry.path).is_file()},
    }


def _given(
    asked: CaseRequest, settings: Settings, task: Task, progress: Callable[[str, int, int], None]
) -> tuple[CaseInput, bool]:
    """The case that was sent or is fetched, and whether it is DICOM."""
    limits = settings.limits
    archive = Path("in/archive.zip")
    dicom = False
    shutil.rmtree(UNPACKED, ignore_errors=True)
    if asked.study is not None:
        if settings.archive is None:
            raise ConfigError(NO_ARCHIVE)
        most = {"files": limits.files, "size": limits.unpacked_bytes}
        fetch_study(settings.archive, asked.study, UNPACKED, **most, progress=progress)
        given, dicom = CaseInput(folder=UNPACKED, given=study_name(UNPACKED)), True
    elif archive.exists():
        unpack(archive, UNPACKED, limits.files, limits.unpacked_bytes)
        check_one_kind(UNPACKED, task)
        dicom = is_dicom(UNPACKED)
        if dicom:
            found = [_study(UNPACKED, asked.examination)]
        else:
            cases = _around_images(UNPACKED)
            found = list_inputs(cases, (asked.channels or None), task, allow_missing=asked.allow_missing)
        if len(found) != 1:
            message = f"The archive holds {len(found)} cases. Expected the four images of one; send others one by one."
            raise CaseError(message)
        given = found[0]
    else:
        files = {path.name.partition(".")[0]: path for path in sorted(Path("in").iterdir()) if path != _brain_mask()}
        given = CaseInput(files=files, task=task, allow_missing=asked.allow_missing)
    return given, dicom


def _around_images(folder: Path) -> Path:
    """The innermost folder that holds all the images: how deep a case lies in its archive does not matter."""
    images = [path.parent for path in folder.rglob("*") if path.name.lower().endswith(ENDINGS)]
    return Path(os.path.commonpath(images)) if images else folder


def _study(folder: Path, study: str | None) -> CaseInput:
    if any(zipfile.is_zipfile(path) for path in folder.rglob("*") if path.is_file()):
        raise CaseError("The archive holds another archive. Expected the DICOM files of one examination themselves.")
    return CaseInput(folder=folder, given=study_name(folder, study))


def _brain_mask() -> Path | None:
    return next(Path("in").glob("brain_mask.*"), None)


def _route(
    asked: CaseRequest, settings: Settings, progress: Callable[[str, int, int], None], *, dicom: bool
) -> RawRoute:
    seg: Kind | None = "LABELMAP" if asked.dicom_labelmap else "BINARY" if asked.dicom_seg else None
    objects = DicomChoice(seg, asked.dicom_rtstruct, asked.dicom_sr)
    mask = _brain_mask()
    if not dicom:
        check_nifti(asked)
    if mask is not None and not (asked.prepare or dicom):
        raise CaseError(NOT_RAW)
    choice = RawChoice(
        prepare=asked.prepare or dicom,
        native=asked.native,
        brain_mask=mask,
        threads=settings.threads,
        uncertainty=asked.uncertainty,
        overwrite=True,
        dicom=dicom,
        study=asked.examination,
        series=dict(entry.split("=") for entry in asked.series.split(",")) if asked.series else {},
        objects=objects,
    )
    return RawRoute(choice, progress)


def _outputs(out: Path, name: str) -> dict[str, str]:
    """Files by kind, below `out`."""
    report = read_finished(out, name)
    assert report is not None
    prepared = {"preparation": "preparation.json", "preparation-picture": "preparation.png"}
    told = {kind: f"{name}-prepared/{name}-{ending}" for kind, ending in prepared.items()}
    made = {kind: file for kind, file in told.items() if (out / file).is_file()}
    return {**report.outputs, "report": f"{name}-report.json", **made}


def pack(out: Path, files: Any) -> None:
    """All outputs in one zip beside them; they are compressed already."""
    made = out / f".{RESULTS}"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(files):
            archive.write(out / file, Path(file).name)
    made.replace(out / RESULTS)
