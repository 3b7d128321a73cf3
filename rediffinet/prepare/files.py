"""A preparation from files to files: which file is which contrast, and what is written for a prepared case."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rediffinet.errors import OutputError
from rediffinet.files import new_files
from rediffinet.io.geometry import to_input_grid
from rediffinet.io.naming import case_name
from rediffinet.io.nifti import Image, read_images, write_nifti
from rediffinet.prepare.names import find_raw
from rediffinet.prepare.picture import save_picture
from rediffinet.prepare.pipeline import Prepared


def read_raw(
    folder: Path | None = None,
    files: Mapping[str, Path] | None = None,
    channels: Sequence[str] | None = None,
    name: str | None = None,
    *,
    allow_missing: bool = False,
) -> tuple[str, dict[str, Image]]:
    """Name and contrasts of a folder of NIfTI files, of explicit files, or of a folder with files that decide.

    allow_missing: one contrast may be absent from the folder.
    Raises CaseError for what is missing, ambiguous or unreadable.
    """
    if folder is not None:
        given = {contrast: str(path) for contrast, path in (files or {}).items()}
        found = find_raw(folder, channels, given, allow_missing=allow_missing)
        called, chosen = found.name, found.files
    else:
        chosen = dict(files or {})
        called = case_name(chosen, next(iter(chosen.values())).parent)
    return name or called, read_images(chosen)


def case_files(case: str, contrasts: Sequence[str], *, passed_through: bool = False) -> dict[str, str]:
    """File name by kind, the report last: where it is, everything is."""
    names = {contrast: f"{case}-{contrast}.nii.gz" for contrast in contrasts}
    if not passed_through:
        names |= {"brain": f"{case}-brain.nii.gz", "picture": f"{case}-preparation.png"}
    return {**names, "report": f"{case}-preparation.json"}


def check_case_folder(folder: Path, case: str, images: Mapping[str, Image], *, overwrite: bool = False) -> None:
    """Raise OutputError, before any work, when files of this case are there and may not be replaced.

    A folder that holds one of the raw images is never written to: a prepared image may have the same name.
    """
    raw = [image.path for image in images.values() if image.path.parent.resolve() == folder.resolve()]
    if raw:
        message = f"{folder} holds {raw[0].name}, which is to be prepared, and is not written to.\nGive another folder "
        raise OutputError(message + "as `out`.")
    contrasts = list(images)
    existing = [name for name in case_files(case, contrasts).values() if (folder / name).exists()]
    if existing and not overwrite:
        message = f"{folder} holds {', '.join(existing)} already.\nUse `overwrite=True` to replace, or another folder."
        raise OutputError(message)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file.\nGive a folder as `out`.")


def save_prepared(prepared: Prepared, folder: Path, *, overwrite: bool = False) -> dict[str, Path]:
    """Write the case, its brain mask, the report and the picture; what was passed through is copied as it is.

    Everything appears together or not at all. Raises OutputError.
    """
    report, case = prepared.report, prepared.case
    names = case_files(case.name, list(report.series), passed_through=report.passed_through)
    stale = set(case_files(case.name, list(report.series)).values()) - set(names.values())
    with new_files(folder, last=names["report"], stale=sorted(stale)) as made:
        if report.passed_through:
            for contrast, series in report.series.items():
                if Path(series.path).is_file():
                    names[contrast] = _same_ending(names[contrast], series.path)
                    shutil.copyfile(series.path, made / names[contrast])
                else:  # from DICOM
                    image = to_input_grid(case.images[case.contrasts.index(contrast)], case.grid)
                    write_nifti(made / names[contrast], image, case.grid, dtype=np.float32)
        else:
            for contrast in report.series:
                image = case.images[case.contrasts.index(contrast)]
                write_nifti(made / names[contrast], image, case.grid, dtype=np.float32)
            write_nifti(made / names["brain"], prepared.brain, case.grid, dtype=np.uint8, description="brain")
            save_picture(prepared, made / names["picture"])
        report.outputs = {kind: name for kind, name in names.items() if kind != "report"}
        (made / names["report"]).write_text(report.to_json(), encoding="utf-8")
    return {kind: folder / name for kind, name in names.items()}


def _same_ending(name: str, path: str) -> str:
    return name if path.lower().endswith(".gz") else name.removesuffix(".gz")
