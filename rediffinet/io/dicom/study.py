"""An examination: the series of the four contrasts as volumes, and DICOM objects for results on their grids."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rediffinet.io.dicom.choose import choose_series
from rediffinet.io.dicom.files import Series, read_series
from rediffinet.io.dicom.volume import Stack, read_volume, stack_frames
from rediffinet.io.nifti import Volume


@dataclass(frozen=True, eq=False)
class Study:
    """name: without anything of the patient, made of the study's UID. stacks, volumes: by contrast."""

    name: str
    stacks: dict[str, Stack]
    volumes: dict[str, Volume]


def read_study(path: Path, given: Mapping[str, str] | None = None) -> Study:
    """The contrasts of the examination at a folder, a DICOMDIR or a zip.

    given: number, UID or description of the series of a contrast, where the rules do not decide.
    Raises CaseError for everything that is not right; see the modules of this package.
    """
    chosen = choose_series(read_series(path), given)
    stacks = {contrast: stack_frames(series) for contrast, series in chosen.items()}
    return Study(
        _name_of(next(iter(chosen.values()))),
        stacks,
        {contrast: read_volume(stack) for contrast, stack in stacks.items()},
    )


def study_name(path: Path) -> str:
    """The name that the examination at a path has here. Raises CaseError when there is none."""
    return _name_of(read_series(path)[0])


def _name_of(series: Series) -> str:
    uid = str(series.headers[0].get("StudyInstanceUID", ""))
    return f"study-{hashlib.sha256(uid.encode()).hexdigest()[:10]}"
