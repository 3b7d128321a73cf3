"""Score files against files: read and check each pair, by one label convention a side, and go on when one fails."""

import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError, LabelError, RediffError
from rediffinet.io.conventions import ConventionError, Conventions
from rediffinet.io.geometry import GRID_CLOSE_VOXELS, GRID_SAME_MM, close_enough_mm, corner_distance_mm, spacing_mm
from rediffinet.io.nifti import Image, read_nifti
from rediffinet.metrics import Protocol, RegionScores, evaluate_case, find_protocol
from rediffinet.scoring.confusion import confusion, exchange_hint
from rediffinet.scoring.pairs import Pair
from rediffinet.task import DEFAULT_TASK, TASKS, Task


@dataclass(frozen=True)
class Rules:
    """What is scored and how: the regions, the definitions, and the conventions that the files are in.

    predictions, references: None where the files are to tell; see `Conventions`.
    """

    task: Task = TASKS[DEFAULT_TASK]
    protocol: Protocol = field(default_factory=find_protocol)
    predictions: Task | None = None
    references: Task | None = None


@dataclass(frozen=True, slots=True)
class CaseScores:
    """Scores of one case. notes: what was put up with to read it. confusion: see `scoring.confusion`."""

    case: str
    prediction: str
    reference: str
    spacing_mm: tuple[float, float, float]
    regions: dict[str, RegionScores]
    confusion: npt.NDArray[np.int64]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that could not be scored, and why.

    unpaired: one of its two files is not there. trace: the traceback of an error that is not the user's.
    """

    case: str
    message: str
    unpaired: bool = False
    trace: str = ""


@dataclass(frozen=True, slots=True)
class CohortScores:
    """Scores of the cases that could be scored, failures of the others, by case name.

    model: the name under which they stand in the table of scores. predictions, references: the conventions that the
    files were read by. hints: what looks wrong about the cohort as a whole.
    """

    model: str
    task: Task
    protocol: Protocol
    predictions: Task
    references: Task
    cases: tuple[CaseScores, ...]
    failures: tuple[Failure, ...]
    hints: tuple[str, ...] = ()


def evaluate_pair(pair: Pair, rules: Rules, sides: tuple[Conventions, Conventions] | None = None) -> CaseScores:
    """Read and score one pair. sides: by which conventions its prediction and its reference are read.

    Spacing is of the reference.

    Raises:
        CaseError: a file is missing or unreadable.
        LabelError: different shapes or affines, labels that are no whole numbers or of no convention.
        ConventionError: labels of another convention than the cohort's, or of one that has to be named.
    """
    if pair.prediction is None or pair.reference is None:
        raise CaseError(pair.problem or f"{pair.case} has no counterpart.")
    with ThreadPoolExecutor(2) as pool:  # most of the time goes into decompression
        predicted, reference = pool.map(read_nifti, (pair.prediction, pair.reference))
    notes = _check_grids(predicted, reference)
    of_predictions, of_references = sides or _conventions(rules)
    pred_labels = of_predictions.read(predicted.voxels, str(predicted.path))
    ref_labels = of_references.read(reference.voxels, str(reference.path))
    spacing = spacing_mm(reference.grid.affine)
    return CaseScores(
        pair.case,
        str(pair.prediction),
        str(pair.reference),
        spacing,
        evaluate_case(pred_labels, ref_labels, spacing, rules.protocol.name, task=rules.task),
        confusion(pred_labels, ref_labels, rules.task),
        notes,
    )


def evaluate_cohort(
    pairs: Sequence[Pair],
    rules: Rules,
    *,
    model: str = "predictions",
    workers: int = 1,
    on_case: Callable[[str], None] = lambda case: None,
) -> CohortScores:
    """Score all pairs, `workers` at a time; a case that fails is listed and does not stop the others.

    Raises:
        ConventionError: the predictions, or the references, are not in one label convention, or in one that has to be
            named: then no case can be trusted.
    """
    sides = _conventions(rules)

    def attempt(pair: Pair) -> CaseScores | Failure:
        try:
            return evaluate_pair(pair, rules, sides)
        except ConventionError:
            raise
        except RediffError as error:
            return Failure(pair.case, str(error), pair.prediction is None or pair.reference is None)
        except Exception as error:  # one surprising file does not cost the cohort
            return Failure(pair.case, f"{type(error).__name__}: {error}", trace=traceback.format_exc())
        finally:
            on_case(pair.case)

    with ThreadPoolExecutor(workers) as pool:
        try:
            outcomes = list(pool.map(attempt, pairs))
        except ConventionError:
            pool.shutdown(cancel_futures=True)
            raise
    cases = tuple(outcome for outcome in outcomes if isinstance(outcome, CaseScores))
    hint = exchange_hint([case.confusion for case in cases], rules.task)
    return CohortScores(
        model,
        rules.task,
        rules.protocol,
        sides[0].decided,
        sides[1].decided,
        cases,
        tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
        (hint,) if hint else (),
    )


def _conventions(rules: Rules) -> tuple[Conventions, Conventions]:
    return Conventions(rules.task, rules.predictions), Conventions(rules.task, rules.references)


def _check_grids(predicted: Image, reference: Image) -> tuple[str, ...]:
    """Nothing, or how far apart the two grids are where that can be put up with."""
    ours, theirs = predicted.grid, reference.grid
    if ours.shape != theirs.shape:
        message = (
            f"{predicted.path} has shape {ours.shape} and {reference.path} {theirs.shape}.\n"
            "Expected the prediction on the grid of the reference; resample it (nearest neighbour) first."
        )
        raise LabelError(message)
    distance = corner_distance_mm(theirs.shape, ours.affine, theirs.affine)
    if distance <= GRID_SAME_MM:
        return ()
    apart = (
        f"{predicted.path} and {reference.path} have different affines, up to {distance:.3g} mm apart at the corners"
    )
    if distance <= close_enough_mm(theirs):
        return (f"{apart}, less than a tenth of a voxel: taken for the same grid, rounded by another program.",)
    message = (
        f"{apart}:\n{_digits(ours.affine)}\n{_digits(theirs.affine)}\n"
        f"Expected the prediction on the grid of the reference, in the same orientation, within {GRID_CLOSE_VOXELS:g} "
        "of a voxel."
    )
    raise LabelError(message)


def _digits(affine: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{value:.7g}" for value in row) + "]" for row in affine) + "]"
