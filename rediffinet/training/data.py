"""Training cases in memory or mapped from a cache, and folds grouped by patient."""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rediffinet.errors import RediffError, TrainingError
from rediffinet.files import write_atomically
from rediffinet.io.cases import find_cases, find_labels, load_case, load_label_map
from rediffinet.io.conventions import ConventionError, Conventions
from rediffinet.method.noise import philox
from rediffinet.method.preprocessing import Preprocessing, preprocess
from rediffinet.method.resample import MILLIMETRE, Spacing, same_spacing
from rediffinet.task import regions_of


@dataclass(frozen=True)
class TrainingCase:
    """A labelled case, normalised and cropped to the brain, at the networks' voxel size.

    image: float16 (C, X, Y, Z); regions: bool (R, X, Y, Z) in the order of the task. Both may be mapped from a file.
    folder: where the case lies. spacing_mm: of its voxels.
    """

    name: str
    patient: str
    image: npt.NDArray[np.float16]
    regions: npt.NDArray[np.bool_]
    folder: Path | None = None
    spacing_mm: Spacing = MILLIMETRE


def patient_of(name: str) -> str:
    """Patient of a case: BraTS-GLI-00005-001 and -000 are two time points of one patient."""
    match = re.fullmatch(r"(BraTS-[A-Za-z]+-\d{5})-\d{3}", name)
    return match.group(1) if match else name


def assign_folds(
    names: Collection[str], folds: int, seed: int = 0, patients: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Fold of every case; all cases of a patient share one. Depends on the set of patients and the seed alone.

    patients: patient of a case where its name does not tell.
    """
    of = {name: (patients or {}).get(name, patient_of(name)) for name in names}
    known = sorted(set(of.values()))
    order = philox("folds", seed).permutation(len(known))
    fold_of = {known[index]: position % folds for position, index in enumerate(order)}
    return {name: fold_of[of[name]] for name in names}


def read_patients(path: Path) -> dict[str, str]:
    """Patient of each case from a CSV file with the columns case and patient. Raises TrainingError for another file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"case", "patient"} <= set(reader.fieldnames or ()):
                raise KeyError(*(reader.fieldnames or ["nothing"]))
            return {row["case"].strip(): row["patient"].strip() for row in reader}
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        message = f"`patients={path}`: {error!r}. Expected a CSV file with the columns case,patient."
        raise TrainingError(message) from None


def load_training_case(
    folder: Path, how: Preprocessing, cache: Path | None = None, conventions: Conventions | None = None
) -> TrainingCase:
    """Read one labelled case folder and prepare it.

    A voxel of a resampled region is one that the region fills by half. With `cache`, a folder, the arrays are written
    there once and mapped from then on; they are made anew when a file of the case or the preparation changes.
    conventions: by which the labels of all cases are read; raises ConventionError where they are in several.
    """
    conventions = conventions or Conventions(how.task)
    if cache is None:
        return _read_training_case(folder, how, conventions)[0]
    path = cache / f"{folder.name}-{_cache_key(folder, how)}"
    image, regions, name = (path.with_suffix(ending) for ending in (".image.npy", ".regions.npy", ".name"))
    if not name.is_file():
        case, told = _read_training_case(folder, how, conventions)
        cache.mkdir(parents=True, exist_ok=True)
        for file, array in ((image, case.image), (regions, case.regions)):
            content = io.BytesIO()
            np.save(content, array)
            write_atomically(file, content.getvalue())
        write_atomically(name, f"{case.name}\n{told}".encode())  # last: it says that the others are whole
    case_name, _, told = name.read_text(encoding="utf-8").partition("\n")
    if told:
        conventions.note(told, str(folder))
    return TrainingCase(
        case_name,
        patient_of(case_name),
        np.load(image, mmap_mode="r"),
        np.load(regions, mmap_mode="r"),
        folder,
        how.spacing_mm,
    )


def _cache_key(folder: Path, how: Preprocessing) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    task = how.task.model_dump_json(include={"contrasts", "labels", "regions", "suffixes", "label_suffixes"})
    made_of = f"2 {stats} {how.normalisation.model_dump_json()} {how.spacing_mm} {task}"
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def _read_training_case(folder: Path, how: Preprocessing, conventions: Conventions) -> tuple[TrainingCase, str]:
    """The case, and the convention that its labels fit alone."""
    case = load_case(folder, task=how.task)
    path = find_labels(folder, how.task)
    if path is None:
        message = f"{folder}: no reference segmentation, expected {case.name}-seg.nii.gz or {case.name}_seg.nii.gz"
        raise TrainingError(message)
    labels = load_label_map(path, conventions, case.grid)
    prepared = preprocess(case.images, case.spacing_mm, how)
    regions = regions_of(labels[prepared.box], how.task)
    if not same_spacing(case.spacing_mm, how.spacing_mm):
        regions = prepared.to_model(regions.astype(np.float32)) >= 0.5
    image = prepared.image.astype(np.float16)
    found = TrainingCase(case.name, patient_of(case.name), image, regions, folder, how.spacing_mm)
    return found, conventions.told(str(path))


def load_training_cases(
    folders: Sequence[Path],
    how: Preprocessing,
    done: Callable[[int, int], None] | None = None,
    *,
    cache: Path | None = None,
    patients: Mapping[str, str] | None = None,
) -> list[TrainingCase]:
    """Every case of the data folders, sorted by name; all problems are reported together, before training starts.

    patients: patient of a case where its name does not tell (`read_patients`).
    """
    paths = [path for folder in folders for path in find_cases(folder, how.task)]
    conventions = Conventions(how.task)

    def attempt(path: Path) -> TrainingCase | RediffError:
        try:
            return load_training_case(path, how, cache, conventions)
        except ConventionError:
            raise
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
    return [replace(case, patient=(patients or {}).get(case.name, case.patient)) for case in cases]
