"""The check of a data set before anything is trained on it: a table of its cases, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rediffinet.errors import TrainingError
from rediffinet.method.preprocessing import Preprocessing
from rediffinet.method.resample import axis_weights
from rediffinet.training.data import TrainingCase

THUMBNAIL = 12
ALIKE = 0.98
"""Correlation of the thumbnails, in the contrast where it is smallest, above which two cases are one examination.

Two patients of BraTS reach 0.93; the same head with other intensities stored is above 0.9999.
"""


def check_dataset(cases: Sequence[TrainingCase], folds: Mapping[str, int], how: Preprocessing, *held_out: int) -> str:
    """The table of the cases (Markdown), once nothing is wrong with them.

    how: the cases were prepared. held_out: folds that are held out in turn; none when all cases are trained on. Raises
    TrainingError with the table and every problem: cases of different patients that are one examination, which would
    put a patient on both sides of a fold; a fold held out that has not a single case with a region, on which no score
    of that region means anything.
    """
    table = describe_cases(cases, folds, how)
    problems = _same_patient(cases)
    for index, region in enumerate(how.task.region_names):
        present = {folds[case.name] for case in cases if case.regions[index].any()}
        problems += [
            f"Fold {fold} has no case with {region}. Use fewer folds, or another seed of their assignment."
            for fold in held_out
            if fold not in present
        ]
    if problems:
        listed = "\n".join(problems)
        raise TrainingError(f"The data set cannot be used as it is:\n\n{table}\n{listed}")
    return table


def describe_cases(cases: Sequence[TrainingCase], folds: Mapping[str, int], how: Preprocessing) -> str:
    """A line per case: patient, fold, shape of the brain crop, volumes of the regions in ml."""
    millilitre = 1000.0 / float(np.prod(how.spacing_mm))
    columns = ["case", "patient", "fold", "crop", *(f"{name} ml" for name in how.task.region_names)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in cases:
        volumes = " | ".join(f"{np.count_nonzero(region) / millilitre:.1f}" for region in case.regions)
        crop = "×".join(map(str, case.regions.shape[1:]))
        lines.append(f"| {case.name} | {case.patient} | {folds[case.name]} | {crop} | {volumes} |")
    return "\n".join(lines) + "\n"


def _same_patient(cases: Sequence[TrainingCase]) -> list[str]:
    thumbnails = [_thumbnail(case.image) for case in cases]
    return [
        f"{a.name} and {b.name} show the same head (correlation {alike:.3f}) but count as the patients {a.patient} and "
        f"{b.patient}. Remove one, or name both as one patient with `patients`."
        for (a, one), (b, other) in combinations(zip(cases, thumbnails, strict=True), 2)
        if a.patient != b.patient and (alike := float((one * other).sum(axis=1).min())) > ALIKE
    ]


def _thumbnail(image: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """An image (C, X, Y, Z) on 12³ voxels, each contrast with mean 0 and norm 1: float32 (C, 1728)."""
    small = image.astype(np.float32)
    for axis in (1, 2, 3):
        weights = axis_weights(small.shape[axis], small.shape[axis] / THUMBNAIL, THUMBNAIL)
        small = np.moveaxis(np.tensordot(weights, small, axes=(1, axis)), 0, axis)
    flat = small.reshape(len(small), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9), np.float32)
