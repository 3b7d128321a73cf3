"""What the numbers of label maps mean: one label convention for a whole cohort.

The values of BraTS 2021 and 2023 differ in one number and can be told apart; those of BraTS 2024, of pediatric cases or
of nnU-Net's order cannot, and have to be named. One file alone may fit several conventions, a cohort follows one: where
its files disagree, nothing is guessed.
"""

from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import LabelError
from rediffinet.task import TASKS, Task, converted, fitting_conventions, fitting_hint, listed

_OLDER, _NEWER = TASKS["glioma-2021"], TASKS["glioma-2023"]
_MANY = 32
ROUNDING = 1e-3
"""How far a value may lie from a whole number: a map that was stored as scaled integers comes back as 2.99998."""


class ConventionError(LabelError):
    """The label maps of a cohort are in several conventions, or in one that has to be named; concerns all of them."""


class Conventions:
    """By which convention the label maps of a cohort are read: the one given, else found out as they come.

    task: whose label values come out. given: the convention of the files; None takes the task's own, or, for gliomas
    before treatment, BraTS 2021 or 2023, whichever the files hold. Safe to use from several threads.
    """

    def __init__(self, task: Task, given: Task | None = None) -> None:
        self.task = task
        self._candidates = (given,) if given else alternatives(task)
        self._given = given is not None
        self._lock = Lock()
        self._first: list[tuple[Task, str]] = []  # conventions, each with the first file that speaks for it alone
        self._told: dict[str, str] = {}

    @property
    def decided(self) -> Task:
        """The convention of the files read so far; the task's own where they fit several."""
        return self._first[0][0] if self._first else self._candidates[0]

    def read(self, voxels: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
        """The task's label values (X, Y, Z) of a map as stored; `what` names it in errors.

        Raises:
            LabelError: values that are not whole numbers or of no convention.
            ConventionError: values of a convention that has to be named, or of another one than earlier files.
        """
        labels = whole_labels(voxels, what)
        values = present(labels)
        fitting = [task for task in self._candidates if set(values) <= set(task.label_names)]
        if not fitting:
            held = [*([] if labels.all() else [0]), *values]
            raise self._unfitting(values, f"{what} holds the values {listed(np.array(held))}")
        if len(fitting) < len(self._candidates):
            self.note(fitting[0].name, what)
        return converted(labels, fitting[0], self.task)

    def told(self, what: str) -> str:
        """The name of the one convention that the map `what` fits, empty where it fits several."""
        return self._told.get(what, "")

    def note(self, name: str, what: str) -> None:
        """Take down that a map fits one convention only, as `told` says of it. Raises ConventionError as `read`."""
        convention = next(task for task in self._candidates if task.name == name)
        with self._lock:
            self._told[what] = name
            if convention not in [known for known, _ in self._first]:
                self._first.append((convention, what))
            if len(self._first) > 1:
                raise ConventionError(_mixture(self._first))

    def _unfitting(self, values: list[int], found: str) -> LabelError:
        expected = " or ".join(f"0 and {task.describe_labels()} ('{task.name}')" for task in self._candidates)
        numbers = np.array(values)
        message = f"{found}.\nExpected {expected}."
        if self._given or not fitting_conventions(numbers):
            return LabelError(message)
        return ConventionError(f"{message}{fitting_hint(numbers)}")


def alternatives(task: Task) -> tuple[Task, ...]:
    """The conventions that files of a task may be in without being told: its own, and for gliomas both of BraTS."""
    for known, other in ((_NEWER, _OLDER), (_OLDER, _NEWER)):
        same = task.regions == known.regions and set(task.label_names) == set(known.label_names)
        if task.name == known.name or (same and task.name not in TASKS):
            return (task, other)
    return (task,)


def whole_labels(voxels: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    """Voxels (…) of any real type → uint8, in the same memory order; what lies within 1e-3 of an integer is rounded.

    `where` names the map in errors.

    Raises:
        LabelError: a value is no whole number, or not between 0 and 255.
    """
    if voxels.dtype == np.uint8:
        return voxels
    if voxels.dtype.kind not in "fiub":
        raise LabelError(f"{where} holds {voxels.dtype} values.\nExpected whole numbers from 0 to 255.")
    with np.errstate(invalid="ignore"):
        whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
        wrong = ~((whole >= 0) & (whole <= 255))
        if voxels.dtype.kind == "f":
            wrong |= ~(np.abs(voxels - whole) <= ROUNDING)
        if wrong.any():
            message = (
                f"{where} holds the values {listed(np.unique(voxels))}.\n"
                f"Expected whole numbers from 0 to 255. This is no label map: {int(wrong.sum())} voxels, the first of "
                f"them {listed(voxels[wrong][:1])}, hold no whole number from 0 to 255."
            )
            raise LabelError(message)
        return whole.astype(np.uint8)


def present(labels: npt.NDArray[np.uint8]) -> list[int]:
    """The values above 0 that a label map holds."""
    top = int(labels.max(initial=0))
    if top > _MANY:
        return [int(value) for value in np.unique(labels) if value]
    return [value for value in range(1, top + 1) if (labels == value).any()]


def _mixture(first: list[tuple[Task, str]]) -> str:
    held = "\n".join(f"  {what} has labels of '{task.name}' ({task.describe_labels()})" for task, what in first)
    return (
        f"The label maps are in {len(first)} conventions:\n{held}\n"
        "Expected one for all of them. Where they do follow one, name it with `labels`: 4 is the resection cavity in "
        "BraTS 2024, 'glioma-post-2024'."
    )
