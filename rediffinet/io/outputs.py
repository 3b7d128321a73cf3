"""What is written for a case, and that it is written whole or not at all."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rediffinet.errors import OutputError
from rediffinet.files import new_files
from rediffinet.io.nifti import write_nifti
from rediffinet.segmenter import Result


@dataclass(frozen=True)
class OutputChoice:
    """Which files are written besides the label maps and the report."""

    preview: bool = True
    uncertainty: bool = False
    probabilities: bool = False
    overwrite: bool = False

    def names(self, case: str, *, baseline: bool = True) -> dict[str, str]:
        """File name by kind, the report last: where it is, everything is. baseline: whether there is one to write."""
        names = {"segmentation": f"{case}-seg.nii.gz"}
        if baseline:
            names["baseline"] = f"{case}-baseline.nii.gz"
        if self.uncertainty:
            names["uncertainty"] = f"{case}-uncertainty.nii.gz"
        if self.probabilities:
            names["probabilities"] = f"{case}-probabilities.nii.gz"
        if self.preview:
            names["preview"] = f"{case}-preview.png"
        return {**names, "report": f"{case}-report.json"}


def check_output(folder: Path, case: str, choice: OutputChoice) -> None:
    """Raise OutputError, before any work, when the outputs exist (without overwrite) or cannot be written."""
    names = _all_names(case)
    try:
        existing = {kind for kind, name in names.items() if (folder / name).exists()}
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        message = f"output folder {folder}: {error.strerror or error}. Give another folder with -o."
        raise OutputError(message) from None
    if existing and not choice.overwrite:
        held = ", ".join(name for kind, name in names.items() if kind in existing)
        message = f"{folder} holds {held} already. Use --overwrite to replace, or another output folder."
        raise OutputError(message)
    if "segmentation" in existing and "report" not in existing:
        # BraTS gives its reference the same name, and the default output folder may be the case's own
        message = (
            f"{folder / names['segmentation']} has no {names['report']} beside it: it may be a reference "
            "segmentation rather than an output, and is not replaced. Move it away, or give another folder with -o."
        )
        raise OutputError(message)
    if not nearest.is_dir():
        message = f"output folder {folder}: {nearest} is a file. Give a folder with -o."
        raise OutputError(message)
    if not os.access(nearest, os.W_OK | os.X_OK):
        message = f"output folder {folder}: {nearest} is not writable. Give another folder with -o."
        raise OutputError(message)


def save_result(result: Result, folder: Path, choice: OutputChoice | None = None) -> dict[str, Path]:
    """Write the outputs of a case into a folder; returns the paths by kind and records them in the report.

    All files are made in a temporary folder inside and then renamed, the report last; outputs of an earlier run that
    are not written again are removed. Raises OutputError, and then leaves nothing behind.
    """
    choice = choice or OutputChoice()
    report = result.report
    check_output(folder, report.case, choice)
    started = time.perf_counter()
    names = choice.names(report.case, baseline=result.crop_baseline is not None)
    with new_files(folder, last=names["report"], stale=_all_names(report.case).values()) as temporary:
        _write_images(result, temporary, names)
        report.outputs = {kind: name for kind, name in names.items() if kind != "report"}
        spent = time.perf_counter() - started
        report.seconds.total += spent - report.seconds.write  # a result may be saved more than once
        report.seconds.write = spent
        (temporary / names["report"]).write_text(report.to_json(), encoding="utf-8")
    return {kind: folder / name for kind, name in names.items()}


def _all_names(case: str) -> dict[str, str]:
    return OutputChoice(preview=True, uncertainty=True, probabilities=True).names(case)


def _write_images(result: Result, folder: Path, names: dict[str, str]) -> None:
    grid = result.grid
    schema = ", ".join(f"{value} {name}" for name, value in result.report.labels.items())
    write_nifti(folder / names["segmentation"], result.labels, grid, dtype=np.uint8, description=schema, intent="label")
    baseline = result.baseline_labels
    if baseline is not None:
        write_nifti(folder / names["baseline"], baseline, grid, dtype=np.uint8, description=schema, intent="label")
    if "uncertainty" in names:
        description = "probability that the label is wrong"
        write_nifti(folder / names["uncertainty"], result.uncertainty, grid, dtype=np.float32, description=description)
    if "probabilities" in names:
        description = "probabilities of WT, TC, ET"
        write_nifti(
            folder / names["probabilities"], result.probabilities, grid, dtype=np.float32, description=description
        )
    if "preview" in names:
        from rediffinet.io.preview import render_preview

        render_preview(result).save(folder / names["preview"])
