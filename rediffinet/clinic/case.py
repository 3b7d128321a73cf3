"""One case from files to files, in three steps that can overlap with those of other cases: read, compute, write."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from rediffinet.clinic.finished import changes, read_finished
from rediffinet.clinic.inputs import CaseInput
from rediffinet.clinic.leftovers import remove_leftovers
from rediffinet.errors import OutputError, RediffError
from rediffinet.io.cases import Case, load_case
from rediffinet.io.masks import BaselineMask, find_mask, read_baseline_mask
from rediffinet.io.outputs import OutputChoice, check_output, save_result
from rediffinet.report import Report
from rediffinet.segmenter import Progress, Result, Segmenter, SegmentOptions
from rediffinet.task import DEFAULT_TASK, TASKS, Task


class Route(Protocol):
    """Another way for a case to come in, and what goes out besides; `rediffinet.prepare.route` has it for raw scans."""

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
        """The case. may_lack: called with the contrasts that it lacks, before any work; None: it may lack none.

        overwrite: what an earlier run that did not come to its end has written for it is replaced.
        """

    def extend(self, result: Result) -> tuple[Result, dict[str, tuple[str, bytes]]]:
        """The result as it is to be written, and further files: name and content by kind."""


@dataclass(frozen=True)
class Order:
    """How cases are segmented and where their files go.

    out: the folder of all outputs; None: one named after the case, in the current folder.
    mask: a label map to refine instead of the bundle's baseline, or a folder with one that is named after each case.
    mask_labels: by which convention it is read; None: by that of the case alone, see `read_baseline_mask`.
    skip_existing: a case that is finished is left as it is; one that was done with other images, bundle or options is
    done again.
    route: how cases come in, where not as they are.
    """

    out: Path | None = None
    seed: int = 0
    options: SegmentOptions = field(default_factory=SegmentOptions)
    choice: OutputChoice = field(default_factory=OutputChoice)
    mask: Path | None = None
    mask_labels: Task | None = None
    skip_existing: bool = False
    route: Route | None = None

    def folder(self, name: str) -> Path:
        """Where the outputs of a case go."""
        return Path(name) if self.out is None else self.out


@dataclass(frozen=True)
class Outcome:
    """What became of one case: a report, or the error that stopped it.

    skipped: it was finished before. again: why a finished case was done again. log: where an unexpected error is told.
    """

    source: str
    report: Report | None = None
    folder: Path | None = None
    error: Exception | None = None
    skipped: bool = False
    again: tuple[str, ...] = ()
    log: Path | None = None


@dataclass(frozen=True, eq=False)
class Read:
    """A case in memory, with everything that is needed to go on."""

    name: str
    folder: Path
    choice: OutputChoice
    case: Case
    baseline: BaselineMask | None
    again: tuple[str, ...] = ()
    route: Route | None = None


def tidy(inputs: Iterable[CaseInput], order: Order, *, alone: bool = False) -> None:
    """Remove what a killed run left of these cases, where outputs may be replaced. alone: see remove_leftovers."""
    if not (order.skip_existing or order.choice.overwrite):
        return
    names: dict[Path, list[str]] = {}
    for given in inputs:
        with suppress(RediffError):  # told when it is its turn
            names.setdefault(order.folder(given.name), []).append(given.name)
    for folder, held in names.items():
        remove_leftovers(folder, held, alone=alone)


def order_again(given: CaseInput, order: Order) -> Order:
    """How a case is asked for again whose process was lost; what it wrote in part is removed, in whole kept."""
    again = replace(order, skip_existing=True)
    tidy([given], again)
    return again


def read_case(segmenter: Segmenter, given: CaseInput, order: Order) -> Read | Outcome:
    """Check where the outputs go, then load. An Outcome: the case is finished and is skipped.

    Raises CaseError, LabelError, OutputError; ConfigError for a margin that there cannot be.
    """
    name = given.name
    folder = order.folder(name)
    choice = order.choice
    again: tuple[str, ...] = ()
    mask = None if order.mask is None else find_mask(order.mask, name)
    if order.skip_existing or not choice.overwrite:
        report = read_finished(folder, name)
        if report is not None and order.skip_existing:
            again = tuple(changes(report, given, segmenter, order.seed, order.options, choice, mask, order.mask_labels))
            if not again:
                return Outcome(name, report, folder, skipped=True)
            choice = replace(choice, overwrite=True)
        elif report is not None:
            message = (
                f"{name} is finished already: {folder} holds {', '.join(report.outputs.values())} and the report. Use "
                "`skip_existing=True` to leave it as it is (images, not DICOM), `overwrite=True` to replace it, or "
                "another output folder."
            )
            raise OutputError(message)
        elif order.skip_existing and (folder / f"{name}-report.json").exists():
            again = ("not all of its outputs are there and whole",)
            choice = replace(choice, overwrite=True)
    check_output(folder, name, choice)

    def may_lack(missing: Sequence[str]) -> None:
        manifest = segmenter.bundle.manifest
        manifest.scores_without(missing)
        if choice.margin:
            manifest.check_gives_margin(given=order.mask is not None, missing=missing)

    if order.route is None:
        case = load_case(
            given.folder,
            files=given.files,
            channels=given.channels,
            name=name,
            task=given.task,
            allow_missing=given.allow_missing,
        )
    else:
        again_too = choice.overwrite or order.skip_existing
        source = given.folder, given.files, given.channels, given.task, may_lack if given.allow_missing else None
        case = order.route.load(name, folder, *source, overwrite=again_too)
    may_lack(case.missing)
    baseline = None if mask is None else read_baseline_mask(mask, case, given.task, order.mask_labels)
    return Read(name, folder, choice, case, baseline, again, order.route)


def compute_case(
    segmenter: Segmenter,
    read: Read,
    order: Order,
    progress: Progress | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
    deadline_s: float | None = None,
) -> Result:
    """Segment what was read."""
    return segmenter.segment(
        read.case, order.seed, order.options, progress, read.baseline, cancelled=cancelled, deadline_s=deadline_s
    )


def error_log(folder: Path, name: str) -> Path:
    """Where the traceback of an unexpected error is told; it goes when the case comes to its end."""
    return folder / f"{name}-error.log"


def write_case(read: Read, result: Result) -> Outcome:
    """Write the files. Raises OutputError, and then leaves none."""
    result, more = (result, None) if read.route is None else read.route.extend(result)
    saved = save_result(result, read.folder, read.choice, more)
    with suppress(OSError):
        error_log(read.folder, read.name).unlink(missing_ok=True)
    return Outcome(read.name, saved.report, read.folder, again=read.again)


def segment_case(
    segmenter: Segmenter,
    given: CaseInput,
    order: Order | None = None,
    progress: Progress | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
    deadline_s: float | None = None,
) -> Outcome:
    """Load, segment and write one case. Raises a RediffError that says what is wrong with it.

    cancelled, deadline_s: as in `Segmenter.segment`.
    """
    order = order or Order()
    tell = progress or (lambda stage, done, of: None)
    tell("load", 0, 1)
    tidy([given], order)
    read = read_case(segmenter, given, order)
    if isinstance(read, Outcome):
        return read
    result = compute_case(segmenter, read, order, progress, cancelled=cancelled, deadline_s=deadline_s)
    tell("write", 0, 1)
    return write_case(read, result)
