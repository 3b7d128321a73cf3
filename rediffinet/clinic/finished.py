"""Whether a case is done: its report is there with all it names, and tells the same images, bundle and options."""

import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
from pydantic import ValidationError

from rediffinet.clinic.inputs import CaseInput
from rediffinet.errors import CaseError
from rediffinet.files import file_sha256
from rediffinet.io.outputs import OutputChoice
from rediffinet.report import Report
from rediffinet.segmenter import Segmenter, SegmentOptions
from rediffinet.task import Task


def read_finished(folder: Path, name: str) -> Report | None:
    """The report of a case whose outputs are all and whole in `folder`, or None. The report is written last.

    A file is whole that has the size which the report tells, or is an image that can be read to its end: one that a
    person has edited is not made again.
    """
    path = folder / f"{name}-report.json"
    try:
        report = Report.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    whole = report.case == name and all(
        is_whole(folder / file, report.output_bytes.get(kind)) for kind, file in report.outputs.items()
    )
    return report if whole else None


def is_whole(path: Path, size: int | None) -> bool:
    """Whether an output is there as it was written, or an image that can be read. size: in bytes; None: not told."""
    try:
        found = path.stat().st_size if path.is_file() else 0
        if found in (0, size):
            return found > 0
        if path.name.endswith(".nii.gz"):
            np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
            return True
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError):
        return False
    return size is None


def changes(
    report: Report,
    given: CaseInput,
    segmenter: Segmenter,
    seed: int,
    options: SegmentOptions,
    choice: OutputChoice,
    mask: Path | None,
    mask_labels: Task | None = None,
) -> list[str]:
    """What differs between a finished case and what is asked for now, in words; an empty list: nothing to do.

    mask_labels: the convention by which the mask is read, where it is decided already.
    The engine, the device and the number of threads do not count: they change results by rounding alone.
    """
    plan = segmenter.plan(options, seed)
    before = {
        "bundle": report.bundle.sha256,
        "steps": report.sampling.steps,
        "samples": report.sampling.samples,
        "seed": report.sampling.seed,
        "precision": report.engine.precision,
        **_settled(report.options or {}),
    }
    now = {
        "bundle": segmenter.bundle.sha256,
        "steps": plan.steps,
        "samples": plan.samples,
        "seed": plan.seed,
        "precision": segmenter.precision,
        **_settled(asdict(options)),
    }
    found = [
        f"{key} {_short(value)} instead of {_short(before.get(key))}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    found += _other_files(report, given, mask)
    if mask is not None and mask_labels is not None and report.baseline.labels not in (None, mask_labels.name):
        found.append(f"labels {mask_labels.name} instead of {report.baseline.labels}")
    absent = set(choice.names(report.case, baseline="baseline" in report.outputs)) - {*report.outputs, "report"}
    return found + [f"{kind} not written before" for kind in sorted(absent)]


def _settled(options: Mapping[str, object]) -> dict[str, object]:
    """Options but those whose value the sampling tells: None there is the bundle's default."""
    return {key: value for key, value in options.items() if key not in ("steps", "samples")}


def _other_files(report: Report, given: CaseInput, mask: Path | None) -> list[str]:
    hashes = {entry.contrast: entry.sha256 for entry in report.inputs}
    try:
        files = given.contrasts()
        found = [f"another {contrast}" for contrast, path in files.items() if file_sha256(path) != hashes.get(contrast)]
        found += [f"no {contrast} any more" for contrast in hashes if contrast not in files]
        mask_hash = None if mask is None else file_sha256(mask)
    except OSError as error:
        message = f"{error.filename} cannot be read: {error.strerror or error}.\nExpected the images of a case."
        raise CaseError(message) from None
    return found + (["another baseline mask"] if mask_hash != report.baseline.sha256 else [])


def _short(value: object) -> str:
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)
