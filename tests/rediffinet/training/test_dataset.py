"""The check of a data set before anything is trained."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")

from rediffinet.errors import TrainingError
from rediffinet.method.normalise import Normalisation
from rediffinet.method.preprocessing import Preprocessing
from rediffinet.task import find_task
from rediffinet.training.data import TrainingCase, assign_folds, read_patients
from rediffinet.training.dataset import check_dataset, describe_cases

HOW = Preprocessing(find_task("glioma-2023"), Normalisation(), (1.0, 1.0, 1.0))


def structured(case: TrainingCase, seed: int) -> TrainingCase:
    """The case with smooth anatomy of its own: cases of white noise have nothing in common with themselves."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (4, 4, 4, 4))
    image = coarse.repeat(6, axis=1).repeat(8, axis=2).repeat(6, axis=3)[:, :24, :30, : case.image.shape[3]]
    return replace(case, image=image.astype(np.float16))


@pytest.fixture
def heads(cases: list) -> list[TrainingCase]:
    return [structured(case, seed) for seed, case in enumerate(cases)]


def folds_of(cases: list[TrainingCase]) -> dict[str, int]:
    return assign_folds([case.name for case in cases], 2)


def test_table_has_the_volumes_in_ml(heads: list[TrainingCase]) -> None:
    table = describe_cases(heads, folds_of(heads), replace(HOW, spacing_mm=(2.0, 2.0, 2.0)))
    row = next(line for line in table.splitlines() if heads[0].name in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == [heads[0].name, heads[0].patient]
    assert cells[3] == "24×30×21"
    assert [float(cell) for cell in cells[4:]] == [pytest.approx(side**3 * 8 / 1000, abs=0.05) for side in (14, 10, 6)]


def test_different_heads_pass(heads: list[TrainingCase]) -> None:
    assert heads[1].name in check_dataset(heads, folds_of(heads), HOW, 0)


def test_one_head_as_two_patients_is_found_whatever_its_intensities(heads: list[TrainingCase]) -> None:
    twin = replace(heads[0], name="case-b", patient="case-b", image=(heads[0].image * 0.5 + 0.1).astype(np.float16))
    both = [heads[0], twin, heads[1]]
    with pytest.raises(TrainingError, match=f"{heads[0].name} and case-b show the same head") as error:
        check_dataset(both, folds_of(both), HOW)
    assert "`patients`" in str(error.value) and "| case |" in str(error.value)


def test_one_head_twice_is_fine_for_one_patient(heads: list[TrainingCase]) -> None:
    twin = replace(heads[0], name="case-b")
    both = [heads[0], twin]
    assert twin.patient == heads[0].patient
    check_dataset(both, {case.name: 0 for case in both}, HOW)


def test_a_held_out_fold_without_enhancing_tumour(heads: list[TrainingCase]) -> None:
    regions = heads[0].regions.copy()
    regions[2] = False
    changed = [replace(heads[0], regions=regions), heads[1]]
    folds = {changed[0].name: 0, changed[1].name: 1}
    check_dataset(changed, folds, HOW, 1)
    check_dataset(changed, folds, HOW)  # trained on all: there is nothing to score
    with pytest.raises(TrainingError, match="Fold 0 has no case with ET"):
        check_dataset(changed, folds, HOW, 0)


def test_named_patients_share_a_fold() -> None:
    names = [f"case-{index}" for index in range(9)]
    named = {"case-3": "Jo", "case-7": "Jo"}
    for seed in range(5):
        folds = assign_folds(names, 4, seed, named)
        assert folds["case-3"] == folds["case-7"]


def test_patients_file(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "patients.csv"
    path.write_text("case,patient\ncase-3, Jo\ncase-7,Jo\n")
    assert read_patients(path) == {"case-3": "Jo", "case-7": "Jo"}
    path.write_text("case,patient\ncase-3,Jo\n", encoding="utf-8-sig")
    assert read_patients(path) == {"case-3": "Jo"}
    path.write_text("case;patient\n")
    with pytest.raises(TrainingError, match="case,patient"):
        read_patients(path)
    path.write_text("name,patient\ncase-3,Jo\n")
    with pytest.raises(TrainingError, match="case,patient"):
        read_patients(path)
    with pytest.raises(TrainingError, match="none.csv"):
        read_patients(path.with_name("none.csv"))
