"""Training cases in memory, and folds grouped by patient."""

import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rediffinet.cases import find_cases, find_labels, load_case, load_labels
from rediffinet.errors import RediffError, TrainingError
from rediffinet.labels import SCHEMAS, labels_to_regions
from rediffinet.noise import philox
from rediffinet.normalise import Normalisation, brain_box, normalise


@dataclass(frozen=True)
class TrainingCase:
    """A labelled case, normalised and cropped to the brain.

    image: float16 (4, X, Y, Z); regions: bool (3, X, Y, Z) in the order WT, TC, ET.
    """

    name: str
    patient: str
    image: npt.NDArray[np.float16]
    regions: npt.NDArray[np.bool_]


def patient_of(name: str) -> str:
    """Patient of a case: BraTS-GLI-00005-001 and -000 are two time points of one patient."""
    match = re.fullmatch(r"(BraTS-[A-Za-z]+-\d{5})-\d{3}", name)
    return match.group(1) if match else name


def assign_folds(names: Collection[str], folds: int, seed: int = 0) -> dict[str, int]:
    """Fold of every case; all cases of a patient share one. Depends on the set of patients and the seed alone."""
    patients = sorted({patient_of(name) for name in names})
    order = philox("folds", seed).permutation(len(patients))
    fold_of = {patients[index]: position % folds for position, index in enumerate(order)}
    return {name: fold_of[patient_of(name)] for name in names}


def load_training_case(folder: Path, recipe: Normalisation) -> TrainingCase:
    """Read one labelled case folder."""
    case = load_case(folder)
    path = find_labels(folder)
    if path is None:
        message = f"{folder}: no reference segmentation, expected {case.name}-seg.nii.gz or {case.name}_seg.nii.gz"
        raise TrainingError(message)
    labels, schema = load_labels(path, case.grid)
    box = brain_box(case.images)
    image = normalise(case.images[(slice(None), *box)], recipe).astype(np.float16)
    return TrainingCase(case.name, patient_of(case.name), image, labels_to_regions(labels[box], SCHEMAS[schema.name]))


def load_training_cases(
    folders: Sequence[Path], recipe: Normalisation, done: Callable[[int, int], None] | None = None
) -> list[TrainingCase]:
    """Every case of the data folders, sorted by name; all problems are reported together, before training starts."""
    paths = [path for folder in folders for path in find_cases(folder)]

    def attempt(path: Path) -> TrainingCase | RediffError:
        try:
            return load_training_case(path, recipe)
        except RediffError as error:
            return error

    results: list[TrainingCase | RediffError] = []
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(attempt, paths):
            results.append(result)
            if done is not None:
                done(len(results), len(paths))
    problems = [str(result) for result in results if isinstance(result, RediffError)]
    if problems:
        message = f"{len(problems)} of {len(paths)} cases cannot be used for training:\n" + "\n".join(problems)
        raise TrainingError(message)
    cases = sorted((case for case in results if isinstance(case, TrainingCase)), key=lambda case: case.name)
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"cases with the same name in the data: {', '.join(twice)}. Rename or remove one of each."
        raise TrainingError(message)
    return cases
