"""From files to files: one case or a folder of cases, a failed case not stopping the others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rediffinet.errors import CaseError, RediffError
from rediffinet.io.cases import find_cases, load_case
from rediffinet.io.masks import find_mask, read_baseline_mask
from rediffinet.io.naming import case_name, find_contrasts
from rediffinet.io.outputs import OutputChoice, check_output, save_result
from rediffinet.report import Report
from rediffinet.segmenter import Progress, Segmenter, SegmentOptions


@dataclass(frozen=True)
class CaseInput:
    """A case to segment: a folder, or four explicit files by contrast."""

    folder: Path | None = None
    files: Mapping[str, Path] | None = None
    channels: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """The name its outputs will have."""
        found = dict(self.files) if self.files else find_contrasts(self._folder, self.channels)
        return case_name(found, self._folder)

    @property
    def _folder(self) -> Path:
        return self.folder if self.folder is not None else next(iter((self.files or {}).values())).parent


@dataclass(frozen=True)
class Outcome:
    """What became of one case: a report, or the error that stopped it."""

    source: str
    report: Report | None = None
    folder: Path | None = None
    error: RediffError | None = None


def list_inputs(path: Path, channels: Sequence[str] | None = None) -> list[CaseInput]:
    """The case in a folder, or the cases in a folder of case folders."""
    return [CaseInput(folder=folder, channels=channels) for folder in find_cases(path)]


def segment_case(
    segmenter: Segmenter,
    given: CaseInput,
    out: Path | None,
    *,
    seed: int = 0,
    options: SegmentOptions | None = None,
    choice: OutputChoice | None = None,
    progress: Progress | None = None,
    mask: Path | None = None,
) -> Outcome:
    """Load, segment and write one case. `out` None: a folder named after the case, in the current folder.

    mask: a label map to refine instead of the bundle's baseline, or a folder with one that is named after the case.
    """
    choice = choice or OutputChoice()
    name = given.name
    folder = Path(name) if out is None else out
    check_output(folder, name, choice)
    mask_file = None if mask is None else find_mask(mask, name)
    if progress is not None:
        progress("load", 0, 1)
    case = load_case(given.folder, files=given.files, channels=given.channels, name=name)
    baseline = None if mask_file is None else read_baseline_mask(mask_file, case)
    result = segmenter.segment(case, seed, options, progress, baseline)
    if progress is not None:
        progress("write", 0, 1)
    saved = save_result(result, folder, choice)
    return Outcome(name, saved.report, folder)


def segment_cohort(inputs: Sequence[CaseInput], segment: Callable[[CaseInput], Outcome]) -> Iterator[Outcome]:
    """Segment case after case; an error the user can fix becomes that case's outcome.

    So does a name that an earlier case has: its outputs would replace that one's.
    """
    first: dict[str, CaseInput] = {}
    for given in inputs:
        try:
            other = first.setdefault(given.name, given)
            if other is not given:
                message = f"{given.folder} and {other.folder} are both named {given.name}. Segment them one by one."
                raise CaseError(message)
            yield segment(given)
        except RediffError as error:
            yield Outcome(str(given.folder), error=error)
