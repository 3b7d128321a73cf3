"""What is to be segmented: a case folder or four files, many of them, and the share of one of several machines."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rediffinet.errors import CaseError, ConfigError
from rediffinet.io.cases import find_cases
from rediffinet.io.dicom.files import find_dicom, is_dicom
from rediffinet.io.naming import case_name, find_contrasts, find_others
from rediffinet.task import DEFAULT_TASK, TASKS, Task


@dataclass(frozen=True)
class CaseInput:
    """A case to segment: a folder, or explicit files by contrast. given: a name instead of that of the files.

    task: which contrasts it has, and what their files are called. allow_missing: one of them may be absent.
    """

    folder: Path | None = None
    files: Mapping[str, Path] | None = None
    channels: Sequence[str] | None = None
    given: str | None = None
    task: Task = TASKS[DEFAULT_TASK]
    allow_missing: bool = False

    @property
    def name(self) -> str:
        """The name its outputs will have."""
        return self.given or case_name(self.contrasts(), self._folder, self.task)

    @property
    def source(self) -> str:
        """Where it is, for messages."""
        return str(self._folder)

    def contrasts(self) -> dict[str, Path]:
        """The file of each contrast. Raises CaseError when one is missing or ambiguous."""
        if self.files:
            return dict(self.files)
        return find_contrasts(self._folder, self.channels, self.task, allow_missing=self.allow_missing)

    @property
    def _folder(self) -> Path:
        return self.folder if self.folder is not None else next(iter((self.files or {}).values())).parent


def list_inputs(
    path: Path,
    channels: Sequence[str] | None = None,
    task: Task = TASKS[DEFAULT_TASK],
    *,
    allow_missing: bool = False,
) -> list[CaseInput]:
    """The case in a folder, or the cases in a folder of case folders, with the contrasts of a task."""
    folders = find_cases(path, task, allow_missing=allow_missing)
    return [CaseInput(folder, channels=channels, task=task, allow_missing=allow_missing) for folder in folders]


def list_cohort(
    path: Path,
    channels: Sequence[str] | None = None,
    task: Task = TASKS[DEFAULT_TASK],
    *,
    allow_missing: bool = False,
    apart: Iterable[Path | None] = (),
) -> tuple[list[CaseInput], list[Path]]:
    """(what `list_inputs` finds and every other folder with images, sorted; folders without any, which are no cases).

    Images under names that are not known are a case that fails, not one that is not there. apart: folders that are
    none, as that of the outputs.
    """
    cases = list_inputs(path, channels, task, allow_missing=allow_missing)
    others, empty = find_others(path, [given.folder for given in cases if given.folder], task, apart)
    more = [CaseInput(folder, channels=channels, task=task, allow_missing=allow_missing) for folder in others]
    return sorted([*cases, *more], key=lambda given: given.source), empty


def was_prepared(folder: Path) -> bool:
    """Whether `rediff prepare` made the images of a folder: what it did, and with it the way back, lies beside them."""
    return any(folder.glob("*-preparation.json"))


def check_one_kind(path: Path, task: Task = TASKS[DEFAULT_TASK], apart: Iterable[Path | None] = ()) -> None:
    """Raise ConfigError for a folder of NIfTI cases with DICOM among them, which would be read as one examination.

    A folder of DICOM may hold images too, such as a mask, and what was prepared of it. apart: folders that are no
    cases, as that of the outputs.
    """
    stray = find_dicom(path) if path.is_dir() else None
    if stray is None:
        return
    away = {folder.resolve() for folder in apart if folder is not None}
    with suppress(CaseError):
        folders = [folder for folder in find_cases(path, task) if folder != path and folder.resolve() not in away]
        cases = [folder for folder in folders if not (is_dicom(folder) or was_prepared(folder))]
        if cases:
            message = (
                f"{path} holds NIfTI (case folders: {len(cases)}, such as {cases[0].name}) and DICOM "
                f"({stray.relative_to(path)}), which would make it one examination.\n"
                "Expected the one or the other: move the DICOM out of the cohort, and give its folder by itself."
            )
            raise ConfigError(message)


@dataclass(frozen=True)
class Shard:
    """The part `index` of `count`, counted from 1: every count-th case, so that all are about equally long.

    Raises ConfigError for a part that there is not.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            message = f"`shard`: got '{self.index}/{self.count}', expected i/N with i from 1 to N, such as 2/8"
            raise ConfigError(message)

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """'2/8' → the second of eight. Raises ConfigError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise ConfigError(f"`shard`: got '{text}', expected i/N with i from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def of(self, inputs: Sequence[CaseInput]) -> list[CaseInput]:
        """Its cases."""
        return list(inputs[self.index - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """What its table's name has more than that of the whole cohort."""
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"
