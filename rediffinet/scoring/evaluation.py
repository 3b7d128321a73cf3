"""Score files against files: pair them by case, read and check each pair, keep going when one fails."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError, LabelError, RediffError
from rediffinet.io.geometry import corner_distance_mm, spacing_mm
from rediffinet.io.nifti import Volume, read_nifti
from rediffinet.labels import BRATS_2021, BRATS_2023, LabelSchema
from rediffinet.metrics import Protocol, RegionScores, evaluate_case

GRID_TOLERANCE_MM = 1e-2  # at the corners; float32 headers of the same grid differ by up to 1e-4

_NIFTI = re.compile(r"(?P<stem>.+)\.nii(?:\.gz)?", re.IGNORECASE)
_LABEL_SUFFIX = re.compile(r"[-_]seg(mentation)?$", re.IGNORECASE)
_NO_LABELS = re.compile(
    r"[-_](t1n|t1c|t2w|t2f|t1|t1ce|t2|flair|000[0-3]|baseline|uncertainty|probabilities)$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One case to score: its name and the two files; a file is None where no counterpart was found."""

    case: str
    prediction: Path | None
    reference: Path | None
    problem: str = ""
    """Why the pair cannot be scored, if that is known before reading."""


@dataclass(frozen=True, slots=True)
class CaseScores:
    """Scores of one case, and what its files were taken for."""

    case: str
    prediction: str
    reference: str
    prediction_schema: str
    reference_schema: str
    spacing_mm: tuple[float, float, float]
    regions: dict[str, RegionScores]


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that could not be scored, and why."""

    case: str
    message: str


@dataclass(frozen=True, slots=True)
class CohortScores:
    """Scores of the cases that could be scored, failures of the others, by case name."""

    protocol: Protocol
    cases: tuple[CaseScores, ...]
    failures: tuple[Failure, ...]


def find_pairs(predictions: Path, references: Path) -> list[Pair]:
    """Pair label maps by case name: two files, or two folders of files or of case folders.

    In folders, a reference is `CASE.nii[.gz]`, `CASE-seg` or `CASE_seg`, there or one folder down. Its prediction has
    one of these names as well, or else is the only file whose name goes on from CASE with `-`, `_` or `.` (images and
    the other outputs of `rediff segment` do not count). A file without counterpart gives a pair with a problem.

    Raises:
        CaseError: a path does not exist, one is a file and the other a folder, or there is no label map to score.
    """
    for path in (predictions, references):
        if not path.exists():
            raise CaseError(f"{path} does not exist.\nExpected a label map, or a folder of label maps or case folders.")
    if predictions.is_file() and references.is_file():
        return [Pair(_case_of(references) or references.name, predictions, references)]
    if predictions.is_file() or references.is_file():
        message = (
            f"{predictions} is a {_kind(predictions)} and {references} a {_kind(references)}.\n"
            "Expected two files or two folders."
        )
        raise CaseError(message)
    return _pair_up(_label_maps(predictions), _label_maps(references), predictions, references)


def evaluate_pair(pair: Pair, protocol: Protocol) -> CaseScores:
    """Read and score one pair.

    Labels of BraTS ≤ 2022 (ET = 4) are converted; the schemas found are in the result. Spacing is of the reference.

    Raises:
        CaseError: a file is missing or unreadable.
        LabelError: different shapes or affines, labels that are no integers or of neither schema.
    """
    if pair.prediction is None or pair.reference is None:
        raise CaseError(pair.problem or f"{pair.case} has no counterpart.")
    with ThreadPoolExecutor(2) as pool:  # most of the time goes into decompression
        predicted, reference = pool.map(read_nifti, (pair.prediction, pair.reference))
    _check_grids(predicted, reference)
    pred_labels, pred_schema = recognise_labels(predicted.voxels, str(predicted.path))
    ref_labels, ref_schema = recognise_labels(reference.voxels, str(reference.path))
    spacing = spacing_mm(reference.grid.affine)
    return CaseScores(
        pair.case,
        str(pair.prediction),
        str(pair.reference),
        pred_schema,
        ref_schema,
        spacing,
        evaluate_case(pred_labels, ref_labels, spacing, protocol.name),
    )


def evaluate_cohort(
    pairs: Sequence[Pair], protocol: Protocol, *, workers: int = 1, on_case: Callable[[str], None] = lambda case: None
) -> CohortScores:
    """Score all pairs, `workers` at a time; a case that fails is listed and does not stop the others."""

    def attempt(pair: Pair) -> CaseScores | Failure:
        try:
            return evaluate_pair(pair, protocol)
        except RediffError as error:
            return Failure(pair.case, str(error))
        finally:
            on_case(pair.case)

    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(attempt, pairs))
    return CohortScores(
        protocol,
        tuple(outcome for outcome in outcomes if isinstance(outcome, CaseScores)),
        tuple(outcome for outcome in outcomes if isinstance(outcome, Failure)),
    )


def recognise_labels(voxels: npt.NDArray[Any], what: str) -> tuple[npt.NDArray[np.uint8], str]:
    """BraTS-2023 labels (X, Y, Z) uint8 of a map as stored, and the name of the schema it was in.

    A map without ET is the same in both schemas and counts as BraTS-2023. `what` names it in errors.

    Raises:
        LabelError: values that are no integers, or of neither schema.
    """
    with np.errstate(invalid="ignore"):  # what does not survive the conversion is an error below
        labels = voxels if voxels.dtype == np.uint8 else voxels.astype(np.uint8)
    if labels is not voxels and not np.array_equal(labels, voxels):
        values = np.unique(voxels)
        with np.errstate(invalid="ignore"):
            raise LabelError(_unknown(what, values[values != values.astype(np.uint8)]))
    top = int(labels.max(initial=0))
    if top <= BRATS_2023.et:
        return labels, BRATS_2023.name
    is_et = labels == BRATS_2021.et
    if top > BRATS_2021.et or (labels == BRATS_2023.et).any():
        raise LabelError(_unknown(what, np.unique(labels)))
    return _convert(labels, is_et, BRATS_2023), BRATS_2021.name


def _convert(labels: npt.NDArray[np.uint8], is_et: npt.NDArray[np.bool_], schema: LabelSchema) -> npt.NDArray[np.uint8]:
    converted = labels.copy(order="K")
    converted[is_et] = schema.et
    return converted


def _unknown(what: str, values: npt.NDArray[Any]) -> str:
    listed = ", ".join(f"{value:g}" for value in values[:12]) + (", …" if len(values) > 12 else "")
    return (
        f"{what} holds the values {listed}.\n"
        "Expected the integers 0, 1, 2, 3 (BraTS 2023) or 0, 1, 2, 4 (BraTS 2022 and before); labels 3 and 4 together "
        "are those of BraTS 2024 post-treatment, which is not supported."
    )


def _check_grids(predicted: Volume, reference: Volume) -> None:
    ours, theirs = predicted.grid, reference.grid
    if ours.shape != theirs.shape:
        message = (
            f"{predicted.path} has shape {ours.shape} and {reference.path} {theirs.shape}.\n"
            "Expected the prediction on the grid of the reference; resample it (nearest neighbour) first."
        )
        raise LabelError(message)
    distance = corner_distance_mm(theirs.shape, ours.affine, theirs.affine)
    if distance > GRID_TOLERANCE_MM:
        message = (
            f"{predicted.path} and {reference.path} have different affines, up to {distance:.3g} mm apart at the "
            f"corners:\n{ours.affine.round(4).tolist()}\n{theirs.affine.round(4).tolist()}\n"
            "Expected the prediction on the grid of the reference, in the same orientation."
        )
        raise LabelError(message)


def _pair_up(
    predicted: dict[Path, str], referenced: dict[Path, str], predictions: Path, references: Path
) -> list[Pair]:
    """One pair per case of the references and per prediction of no case; the longest case name that fits counts."""
    by_case: dict[str, list[Path]] = {}
    for path, stem in referenced.items():
        by_case.setdefault(_LABEL_SUFFIX.sub("", stem), []).append(path)
    if not by_case:
        raise CaseError(f"No label map found in {references}.\nExpected CASE-seg.nii.gz or CASE.nii.gz.")
    named: dict[str, list[Path]] = {}
    longer: dict[str, list[Path]] = {}
    pairs = []
    for path, stem in predicted.items():
        own = _LABEL_SUFFIX.sub("", stem)
        begun = [case for case in by_case if own.startswith(case) and own[len(case) :].startswith(("-", "_", "."))]
        if own in by_case:
            named.setdefault(own, []).append(path)
        elif begun:
            longer.setdefault(max(begun, key=len), []).append(path)
        else:
            problem = f"{path} has no reference in {references}.\nExpected a file such as {own}-seg.nii.gz there."
            pairs.append(Pair(own, path, None, problem))
    for case, files in by_case.items():
        found = named.get(case) or longer.get(case, [])
        if len(files) > 1:
            pairs.append(Pair(case, None, None, _several(case, "references", files)))
        elif len(found) > 1:
            pairs.append(Pair(case, None, files[0], _several(case, "predictions", found)))
        elif not found:
            problem = f"{case} has no prediction in {predictions}.\nExpected a file such as {case}-seg.nii.gz there."
            pairs.append(Pair(case, None, files[0], problem))
        else:
            pairs.append(Pair(case, found[0], files[0]))
    return sorted(pairs, key=lambda pair: pair.case)


def _several(case: str, what: str, files: Sequence[Path]) -> str:
    return f"{case} has {len(files)} {what}: {', '.join(str(path) for path in files)}.\nExpected one."


def _label_maps(folder: Path) -> dict[Path, str]:
    """NIfTI files in a folder and its subfolders that can be label maps, with their names without endings.

    A subfolder that has `…-seg` files is a case folder: nothing else in it counts.
    """
    found = _nifti_files(folder)
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            inside = _nifti_files(child)
            found |= {path: stem for path, stem in inside.items() if _LABEL_SUFFIX.search(stem)} or inside
    return found


def _nifti_files(folder: Path) -> dict[Path, str]:
    found = {path: _NIFTI.fullmatch(path.name) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    return {path: match["stem"] for path, match in found.items() if match and not _NO_LABELS.search(match["stem"])}


def _case_of(path: Path) -> str:
    match = _NIFTI.fullmatch(path.name)
    return _LABEL_SUFFIX.sub("", match["stem"]) if match else path.name


def _kind(path: Path) -> str:
    return "file" if path.is_file() else "folder"
