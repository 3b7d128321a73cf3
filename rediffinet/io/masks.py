"""A baseline made by any other program: a label map on the case's grid, refined instead of the bundle's own."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError, LabelError
from rediffinet.files import file_sha256
from rediffinet.io.cases import Case, load_label_map
from rediffinet.io.conventions import ConventionError, Conventions
from rediffinet.io.geometry import to_canonical
from rediffinet.io.naming import printable
from rediffinet.io.nifti import read_nifti
from rediffinet.task import DEFAULT_TASK, TASKS, Task, regions_of

ENDINGS = tuple(f"{middle}.nii{packed}" for middle in ("-baseline", "-seg", "_seg", "") for packed in (".gz", ""))
"""How a mask of case X may be named in a folder of masks, after the X."""


@dataclass(frozen=True, eq=False)
class BaselineMask:
    """Regions bool (R, X, Y, Z) of a task in canonical orientation, and the file they come from, if any.

    convention: name of the convention by which its labels were read. load_seconds: what reading took.
    """

    regions: npt.NDArray[np.bool_]
    path: str | None = None
    sha256: str | None = None
    convention: str = DEFAULT_TASK
    load_seconds: float = 0.0


def read_baseline_mask(
    path: Path, case: Case, task: Task = TASKS[DEFAULT_TASK], convention: Task | None = None
) -> BaselineMask:
    """Read a label map whose regions are those of a task.

    convention: what its numbers mean; None: the task's, or for gliomas BraTS 2021 or 2023, whichever the file holds
    (see `decide_convention` for many).

    Raises CaseError when it cannot be read, LabelError when it is not on the case's grid or holds other values.
    """
    started = time.perf_counter()
    conventions = Conventions(task, convention)
    regions = regions_of(load_label_map(path, conventions, case.grid), task)
    name = conventions.decided.name
    return BaselineMask(regions, printable(str(path)), file_sha256(path), name, time.perf_counter() - started)


def mask_from_labels(
    labels: npt.NDArray[np.integer], case: Case, task: Task = TASKS[DEFAULT_TASK], convention: Task | None = None
) -> BaselineMask:
    """A label map in memory, on the grid that the case was stored on; task and convention as for a file.

    Raises LabelError when the shape or the values are others.
    """
    if labels.shape != case.grid.shape:
        message = (
            f"The baseline's labels have shape {labels.shape}, case {case.name} has {case.grid.shape}.\n"
            "Expected a label map on the grid of the images as they are stored."
        )
        raise LabelError(message)
    conventions = Conventions(task, convention)
    read = conventions.read(labels, "The baseline's label map")
    return BaselineMask(regions_of(to_canonical(read, case.grid), task), convention=conventions.decided.name)


def decide_convention(paths: Iterable[Path], task: Task = TASKS[DEFAULT_TASK]) -> Task:
    """The convention that the label maps of a cohort are in, told from all of them before any is used.

    Files that cannot be read, or are no label maps, tell nothing; they fail when it is their turn.

    Raises ConventionError when they are in several, or in one that has to be named.
    """
    conventions = Conventions(task)
    for path in paths:
        try:
            conventions.read(read_nifti(path).voxels, str(path))
        except ConventionError:
            raise
        except (CaseError, LabelError):
            continue
    return conventions.decided


def decide_masks(path: Path, names: Iterable[str], task: Task = TASKS[DEFAULT_TASK]) -> Task:
    """The convention of the masks of these cases, in a folder or in one file; raises ConventionError."""
    found = []
    for name in names:
        with suppress(CaseError):  # a case without a mask fails when it is its turn
            found.append(find_mask(path, name))
    return decide_convention(found, task)


def find_mask(path: Path, name: str) -> Path:
    """The mask of the case `name`: the file itself, or the one in a folder of masks that is named after the case.

    Raises CaseError when a folder holds none, or more than one.
    """
    if not path.is_dir():
        return path
    names = [f"{name}{ending}" for ending in ENDINGS]
    found = [path / file for file in names if (path / file).is_file()]
    if len(found) == 1:
        return found[0]
    message = (
        f"{path} holds {', '.join(file.name for file in found) or 'no mask'} of case {name}.\n"
        f"Expected one of {', '.join(names[::2])} (or .nii)."
    )
    raise CaseError(message)
