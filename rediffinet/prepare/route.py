"""The way of a raw case through `rediff segment`: prepared before, brought back to its series after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rediffinet.errors import CaseError
from rediffinet.io.cases import Case, load_case
from rediffinet.io.dicom.study import Study, read_study
from rediffinet.io.geometry import GRID_SAME_MM, Grid, grid_distance_mm
from rediffinet.io.nifti import read_nifti
from rediffinet.prepare.files import check_case_folder, read_raw, save_prepared
from rediffinet.prepare.native import to_native, which_series, with_native
from rediffinet.prepare.objects import DicomChoice, dicom_objects
from rediffinet.prepare.pipeline import prepare
from rediffinet.prepare.report import Preparation, find_preparation
from rediffinet.report import Warning_
from rediffinet.result import Result
from rediffinet.task import DEFAULT_TASK, TASKS, Task


@dataclass(frozen=True)
class RawChoice:
    """How raw scans are treated.

    prepare: prepare what is not prepared; otherwise only the way back of a case that `rediff prepare` made is taken.
    native: series to write results for: the reference (t1c where there is one), some of the contrasts, all, none.
    threads: of the brain's network. dicom: whether the input is DICOM. study: name or UID of one of several. series:
    number, UID or description of a contrast's series, where the rules do not decide. objects: the DICOM objects to
    write, for the same series.
    """

    prepare: bool = False
    native: str = "reference"
    brain_mask: Path | None = None
    threads: int | None = None
    uncertainty: bool = False
    overwrite: bool = False
    dicom: bool = False
    study: str | None = None
    series: Mapping[str, str] = field(default_factory=dict)
    objects: DicomChoice = field(default_factory=DicomChoice)


@dataclass
class RawRoute:
    """What `load` found out about a case is kept until `extend` has used it."""

    choice: RawChoice
    progress: Callable[[str, int, int], None] | None = None
    known: dict[str, Preparation] = field(default_factory=dict)
    studies: dict[str, Study] = field(default_factory=dict)

    def load(
        self,
        name: str,
        out: Path,
        folder: Path | None = None,
        files: Mapping[str, Path] | None = None,
        channels: Sequence[str] | None = None,
        task: Task = TASKS[DEFAULT_TASK],
        may_lack: Callable[[Sequence[str]], object] | None = None,
        *,
        overwrite: bool = False,
    ) -> Case:
        """The case, prepared if that was asked for; the prepared images are written into `out/NAME-prepared`.

        may_lack: called with the contrasts that the case lacks, before any work; None: it may lack none. overwrite: as
        that of the choice, for images that an earlier run prepared and did not segment.
        Raises what `prepare`, `load_case`, `save_prepared` and `may_lack` raise.
        """
        allow_missing = may_lack is not None
        if not self.choice.prepare:
            case = load_case(folder, files=files, channels=channels, name=name, task=task, allow_missing=allow_missing)
            found = None if folder is None else find_preparation(folder, name)
            if found is not None:
                _check_fits(found, case)
                which_series(found, self.choice.native)
                self.known[name] = found
            return case
        if self.choice.dicom and folder is not None:
            choice = self.choice
            study = read_study(folder, choice.series, study=choice.study, allow_missing=allow_missing)
            self.studies[name] = study
            images = study.volumes
        else:
            where = None if files else folder
            name, images = read_raw(where, files, channels, name, allow_missing=allow_missing)
        if may_lack is not None:
            may_lack([contrast for contrast in task.contrasts if contrast not in images])
        target = out / f"{name}-prepared"
        overwrite = overwrite or self.choice.overwrite
        check_case_folder(target, name, images, overwrite=overwrite)
        mask = None if self.choice.brain_mask is None else read_nifti(self.choice.brain_mask)
        prepared = prepare(
            name,
            images,
            brain_mask=mask,
            threads=self.choice.threads,
            progress=self.progress,
            allow_missing=allow_missing,
        )
        which_series(prepared.report, self.choice.native)
        if not prepared.report.passed_through:
            save_prepared(prepared, target, overwrite=overwrite)
        self.known[name] = prepared.report
        return prepared.case

    def extend(self, result: Result) -> tuple[Result, dict[str, tuple[str, bytes]]]:
        """The result with what is told of its preparation, and the further files to write with it."""
        preparation = self.known.pop(result.report.case, None)
        study = self.studies.pop(result.report.case, None)
        if preparation is None or (preparation.passed_through and study is None):
            return result, {}
        result.report.warnings.extend(Warning_(code=one.code, message=one.message) for one in preparation.warnings)
        natives = to_native(result, preparation, which_series(preparation, self.choice.native))
        told, files = with_native(result, natives, uncertainty=self.choice.uncertainty)
        if study is not None and self.choice.objects.any:
            for native in natives:
                stack = study.stacks[native.contrast]
                files |= dicom_objects(result, stack, native.contrast, native.labels, self.choice.objects)
        return told, files


def _check_fits(preparation: Preparation, case: Case) -> None:
    space = preparation.space.space
    if not grid_distance_mm(Grid(space.shape, space.affine), case.grid) <= GRID_SAME_MM:
        message = (
            f"The preparation of case {case.name} beside its images is of another grid "
            f"({' × '.join(map(str, space.shape))} voxels, the images have {' × '.join(map(str, case.grid.shape))}).\n"
            "Prepare the case again, or move the preparation's file away."
        )
        raise CaseError(message)
