"""Folds and the training cases in memory."""

import gzip
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import CaseError, TrainingError
from rediffinet.method.normalise import Normalisation
from rediffinet.method.preprocessing import Preprocessing
from rediffinet.task import find_task
from rediffinet.training.data import assign_folds, load_training_case, load_training_cases, patient_of

NAMES = [f"BraTS-GLI-{patient:05d}-{time:03d}" for patient in range(23) for time in range(1 + patient % 3)]
HOW = Preprocessing(find_task("glioma-2023"), Normalisation(), (1.0, 1.0, 1.0))


def rewrite_labels(path: Path, change: dict[int, int]) -> None:
    image = nib.load(path)
    labels = np.asarray(image.dataobj)
    changed = labels.copy()
    for old, new in change.items():
        changed[labels == old] = new
    nib.save(nib.Nifti1Image(changed, image.affine, image.header), path)


@pytest.fixture
def copies(phantoms: Path, tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data"
    shutil.copytree(phantoms, folder)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
        ("BraTS-MEN-12345-000", "BraTS-MEN-12345"),
        ("BraTS2021_00005", "BraTS2021_00005"),
        ("case-7", "case-7"),
    ],
)
def test_patient_is_the_name_without_the_time_point(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_time_points_of_a_patient_share_a_fold() -> None:
    folds = assign_folds(NAMES, 5)
    assert set(folds) == set(NAMES)
    for patient in range(23):
        assert len({fold for name, fold in folds.items() if f"-{patient:05d}-" in name}) == 1


def test_folds_hold_equally_many_patients() -> None:
    folds = assign_folds(NAMES, 5)
    patients = {name.rsplit("-", 1)[0]: fold for name, fold in folds.items()}
    counts = Counter(patients.values())
    assert set(counts) == set(range(5)) and max(counts.values()) - min(counts.values()) <= 1


def test_folds_depend_on_patients_and_seed_alone() -> None:
    folds = assign_folds(NAMES, 5)
    assert assign_folds(NAMES[::-1], 5) == folds
    first = [name for name in NAMES if name.endswith("-000")]
    assert assign_folds(first, 5) == {name: folds[name] for name in first}
    assert assign_folds(NAMES, 5, seed=1) != folds


def test_a_case_is_normalised_and_cropped(phantoms: Path) -> None:
    folder = sorted(phantoms.iterdir())[0]
    case = load_training_case(folder, HOW)
    stored = [
        np.asarray(nib.load(folder / f"{folder.name}-{name}.nii.gz").dataobj) for name in ("t1n", "t1c", "t2w", "t2f")
    ]
    labels = np.asarray(nib.load(folder / f"{folder.name}-seg.nii.gz").dataobj)
    brain = np.argwhere(np.any(np.stack(stored) > 0, axis=0))
    box = tuple(slice(a, b + 1) for a, b in zip(brain.min(0), brain.max(0), strict=True))
    assert (case.name, case.patient) == (folder.name, folder.name[:-4])
    assert case.image.dtype == np.float16 and case.regions.dtype == bool
    assert case.image.min() == -1.0 and case.image.max() == 1.0
    expected = np.stack([np.isin(labels, values) for values in ((1, 2, 3), (1, 3), (3,))])[(slice(None), *box)]
    np.testing.assert_array_equal(case.regions, expected)
    for channel, image in zip(case.image, stored, strict=True):
        assert (channel[image[box] == 0] == -1.0).all()
        positive = image[box] > 0
        order = np.argsort(image[box][positive], kind="stable")
        assert (np.diff(channel[positive][order].astype(float)) >= 0).all()


def test_both_label_schemas_give_the_same_regions(copies: list[Path]) -> None:
    new = load_training_case(copies[0], HOW)
    assert new.regions[2].any()
    rewrite_labels(copies[0] / f"{copies[0].name}-seg.nii.gz", {3: 4})
    old = load_training_case(copies[0], HOW)
    np.testing.assert_array_equal(new.regions, old.regions)


def test_cases_of_several_folders_come_sorted_by_name(copies: list[Path], tmp_path: Path) -> None:
    second = tmp_path / "a-second-folder"
    second.mkdir()
    shutil.move(copies[0], second)
    seen: list[tuple[int, int]] = []
    cases = load_training_cases([copies[1].parent, second], HOW, lambda done, of: seen.append((done, of)))
    assert [case.name for case in cases] == [folder.name for folder in copies]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_all_bad_cases_are_reported_together(copies: list[Path]) -> None:
    no_labels, odd_labels, corrupt, good = copies
    (no_labels / f"{no_labels.name}-seg.nii.gz").unlink()
    rewrite_labels(odd_labels / f"{odd_labels.name}-seg.nii.gz", {2: 7})
    broken = corrupt / f"{corrupt.name}-t2f.nii.gz"
    content = gzip.decompress(broken.read_bytes())
    packed = gzip.compress(content)
    broken.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TrainingError) as error:
        load_training_cases([good.parent], HOW)
    message = str(error.value)
    assert message.startswith("3 of 4 cases cannot be used for training")
    assert f"{no_labels.name}-seg.nii.gz" in message
    assert f"{odd_labels.name}-seg.nii.gz" in message and "7" in message
    assert f"{corrupt.name}-t2f.nii.gz" in message
    assert good.name not in message


def test_labels_on_another_grid_are_reported(copies: list[Path]) -> None:
    path = copies[0] / f"{copies[0].name}-seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    with pytest.raises(TrainingError, match=r"(?s)1 of 4.*seg\.nii\.gz"):
        load_training_cases([copies[0].parent], HOW)


def test_the_same_case_twice_is_an_error(phantoms: Path) -> None:
    name = sorted(phantoms.iterdir())[0].name
    with pytest.raises(TrainingError, match=f"same name.*{name}"):
        load_training_cases([phantoms, phantoms], HOW)


def test_a_folder_without_cases_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"No case found"):
        load_training_cases([tmp_path], HOW)
    with pytest.raises(CaseError, match="missing"):
        load_training_cases([tmp_path / "missing"], HOW)
