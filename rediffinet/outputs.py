"""What is written for a case, and that it is written whole or not at all."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rediffinet.errors import OutputError
from rediffinet.nifti import write_nifti
from rediffinet.segmenter import Result


@dataclass(frozen=True)
class OutputChoice:
    """Which files are written besides the label maps and the report."""

    preview: bool = True
    uncertainty: bool = False
    probabilities: bool = False
    overwrite: bool = False

    def names(self, case: str) -> dict[str, str]:
        """File name by kind, the report last: where it is, everything is."""
        names = {"segmentation": f"{case}-seg.nii.gz", "baseline": f"{case}-baseline.nii.gz"}
        if self.uncertainty:
            names["uncertainty"] = f"{case}-uncertainty.nii.gz"
        if self.probabilities:
            names["probabilities"] = f"{case}-probabilities.nii.gz"
        if self.preview:
            names["preview"] = f"{case}-preview.png"
        return {**names, "report": f"{case}-report.json"}


def check_output(folder: Path, case: str, choice: OutputChoice) -> None:
    """Raise OutputError, before any work, when the outputs exist (without overwrite) or cannot be written."""
    existing = [name for name in choice.names(case).values() if (folder / name).exists()]
    if existing and not choice.overwrite:
        message = f"{folder} holds {', '.join(existing)} already. Use --overwrite to replace, or another output folder."
        raise OutputError(message)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        message = f"output folder {folder}: {nearest} is a file. Give a folder with -o."
        raise OutputError(message)
    if not os.access(nearest, os.W_OK | os.X_OK):
        message = f"output folder {folder}: {nearest} is not writable. Give another folder with -o."
        raise OutputError(message)


def save_result(result: Result, folder: Path, choice: OutputChoice | None = None) -> dict[str, Path]:
    """Write the outputs of a case into a folder; returns the paths by kind and records them in the report.

    All files are made in a temporary folder beside and then renamed, the report last.
    """
    choice = choice or OutputChoice()
    report = result.report
    check_output(folder, report.case, choice)
    started = time.perf_counter()
    names = choice.names(report.case)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{report.case}.", dir=folder))
    except OSError as error:
        message = f"output folder {folder} cannot be written: {error.strerror or error}. Give another folder with -o."
        raise OutputError(message) from None
    try:
        _write_images(result, temporary, names)
        report.outputs = {kind: name for kind, name in names.items() if kind != "report"}
        report.seconds.write = time.perf_counter() - started
        report.seconds.total += report.seconds.write
        (temporary / names["report"]).write_text(report.to_json())
        for name in names.values():
            (temporary / name).replace(folder / name)
    except OSError as error:
        message = f"output folder {folder}: {error.strerror or error} while writing. Nothing of this case is complete."
        raise OutputError(message) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {kind: folder / name for kind, name in names.items()}


def _write_images(result: Result, folder: Path, names: dict[str, str]) -> None:
    grid = result.grid
    schema = ", ".join(f"{value} {name}" for name, value in result.report.labels.items())
    write_nifti(folder / names["segmentation"], result.labels, grid, dtype=np.uint8, description=schema, intent="label")
    write_nifti(
        folder / names["baseline"], result.baseline_labels, grid, dtype=np.uint8, description=schema, intent="label"
    )
    if "uncertainty" in names:
        description = "probability that the label is wrong"
        write_nifti(
            folder / names["uncertainty"], result.uncertainty, grid, dtype=np.float32, description=description
        )
    if "probabilities" in names:
        description = "probabilities of WT, TC, ET"
        write_nifti(
            folder / names["probabilities"], result.probabilities, grid, dtype=np.float32, description=description
        )
    if "preview" in names:
        from rediffinet.preview import render_preview

        render_preview(result).save(folder / names["preview"])
