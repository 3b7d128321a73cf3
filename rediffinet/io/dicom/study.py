"""An examination: the series of the four contrasts as volumes, and DICOM objects for results on their grids."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from rediffinet.errors import CaseError
from rediffinet.io.checks import check_case_size
from rediffinet.io.dicom.choose import choose_series, guess
from rediffinet.io.dicom.files import Series, read_series
from rediffinet.io.dicom.volume import Stack, read_volume, stack_frames
from rediffinet.io.nifti import Image
from rediffinet.io.sequences import CONTRASTS, aligned


@dataclass(frozen=True, eq=False)
class Study:
    """name: without anything of the patient, made of the study's UID. stacks, volumes: by contrast."""

    name: str
    stacks: dict[str, Stack]
    volumes: dict[str, Image]


def read_study(
    path: Path, given: Mapping[str, str] | None = None, *, study: str | None = None, allow_missing: bool = False
) -> Study:
    """The contrasts of the examination at a folder, a DICOMDIR or a zip.

    given: number, UID or description of the series of a contrast, where the rules do not decide. study: name or UID of
    one of several. allow_missing: there may be no series of one contrast.
    Raises CaseError for everything that is not right; see the modules of this package.
    """
    chosen = choose_series(_of_study(path, study), given, allow_missing=allow_missing)
    _check_frames(chosen, given or {})
    stacks = {contrast: stack_frames(series) for contrast, series in chosen.items()}
    check_case_size(stack.grid.shape for stack in stacks.values())
    return Study(
        _name_of(next(iter(chosen.values()))),
        stacks,
        {contrast: read_volume(stack) for contrast, stack in stacks.items()},
    )


def _check_frames(chosen: Mapping[str, Series], given: Mapping[str, str]) -> None:
    """Raise CaseError for series of several frames of reference, but for those that were named: they are meant."""
    frames = {contrast: str(series.headers[0].get("FrameOfReferenceUID", "")) for contrast, series in chosen.items()}
    uids = list(frames.values())
    most = max(uids, key=uids.count)
    if all(uid == most or contrast in given for contrast, uid in frames.items()):
        return
    numbers = {uid: number for number, uid in enumerate(dict.fromkeys(uids), 1)}
    rows = [("contrast", "series", "description", "frame of reference")]
    for contrast, series in chosen.items():
        told = (series.description or "–")[:40]
        rows.append((contrast, str(series.number), told, str(numbers[frames[contrast]])))
    odd = " ".join(f"`{contrast}={chosen[contrast].number}`" for contrast, uid in frames.items() if uid != most)
    raise CaseError(
        f"The series are of {len(numbers)} frames of reference: the patient was moved between them, or they are of "
        f"several examinations.\n{aligned(rows)}\nExpected one frame. If they are meant, name them: {odd}."
    )


def study_name(path: Path, study: str | None = None) -> str:
    """The name that the examination at a path has here. Raises CaseError when there is none, or which is not clear."""
    return _name_of(_of_study(path, study)[0])


def _of_study(path: Path, study: str | None) -> list[Series]:
    """The series of the one examination at a path, or of the one that is named among several."""
    studies: dict[str, list[Series]] = {}
    for series in read_series(path):
        studies.setdefault(_uid_of(series), []).append(series)
    fitting = [held for uid, held in studies.items() if study in (None, uid, _name_of(held[0]))]
    if len(fitting) == 1:
        return fitting[0]
    message = f"{path} holds {len(studies)} studies." if fitting else f"There is no study {study} at {path}."
    raise CaseError(f"{message}\n{_table(list(studies.values()))}\nSay which one: `study=NAME` (or its UID).")


def _table(studies: Sequence[Sequence[Series]]) -> str:
    """The studies by date as lines: name, days after the first (dates identify a person), series, contrasts."""
    known = [day for held in studies if (day := _day(held[0])) is not None]
    rows = [("study", "days after the first", "series", "contrasts by the rules")]
    for held in sorted(studies, key=lambda held: (_day(held[0]) or date.max, _name_of(held[0]))):
        day = _day(held[0])
        guesses = [guess(series).contrast for series in held]
        found = [f"{guesses.count(name)} × {name}" for name in CONTRASTS if name in guesses]
        after = "not known" if day is None else str((day - min(known)).days)
        rows.append((_name_of(held[0]), after, str(len(held)), ", ".join(found) or "none"))
    return aligned(rows)


def _day(series: Series) -> date | None:
    try:
        return datetime.strptime(str(series.headers[0].get("StudyDate", "")), "%Y%m%d").date()
    except ValueError:
        return None


def _uid_of(series: Series) -> str:
    return str(series.headers[0].get("StudyInstanceUID", ""))


def _name_of(series: Series) -> str:
    return f"study-{hashlib.sha256(_uid_of(series).encode()).hexdigest()[:10]}"
