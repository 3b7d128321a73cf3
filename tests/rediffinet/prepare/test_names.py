"""Raw NIfTI files by names and sidecars: as collections and converters name them, and what is not guessed."""

import json
from pathlib import Path

import pytest

from rediffinet.errors import CaseError
from rediffinet.prepare.names import find_raw, list_raw

FOLDERS = {
    "BraTS 2023, with a mask that ends on t1c": (
        "TCGA-1",
        {"t1n": "TCGA-1-t1n", "t1c": "TCGA-1-t1c", "t2w": "TCGA-1-t2w", "t2f": "TCGA-1-t2f"},
        ["TCGA-1-brainmask-t1c"],
    ),
    "UPENN-GBM": (
        "UPENN-GBM-00001_11",
        {
            c: f"UPENN-GBM-00001_11_{n}_unstripped"
            for c, n in zip(("t1n", "t1c", "t2w", "t2f"), ("T1", "T1GD", "T2", "FLAIR"), strict=True)
        },
        [],
    ),
    "BIDS": (
        "sub-01_ses-1",
        {
            "t1n": "sub-01_ses-1_T1w",
            "t1c": "sub-01_ses-1_ce-gadolinium_T1w",
            "t2w": "sub-01_ses-1_T2w",
            "t2f": "sub-01_ses-1_FLAIR",
        },
        ["sub-01_ses-1_dwi", "sub-01_ses-1_T2star"],
    ),
    "dcm2niix": (
        None,
        {
            "t1n": "3_t1_mprage_sag_20200101",
            "t1c": "9_t1_mprage_sag_KM_20200101",
            "t2w": "5_t2_tse_tra_20200101",
            "t2f": "6_t2_tirm_tra_dark-fluid_20200101",
        },
        ["7_ep2d_diff_ADC_20200101", "1_localizer_20200101", "8_t2_fl2d_tra_hemo_20200101"],
    ),
    "words": (
        None,
        {"t1n": "T1 pre", "t1c": "T1 post contrast", "t2w": "T2", "t2f": "T2 FLAIR"},
        ["tumor_seg", "whole-head label"],
    ),
}


def write(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.nii.gz").touch()
    return folder


@pytest.mark.parametrize("which", FOLDERS)
def test_names_as_they_come(tmp_path: Path, which: str) -> None:
    name, files, others = FOLDERS[which]
    found = find_raw(write(tmp_path / "case", [*files.values(), *others]))
    assert {contrast: path.name.removesuffix(".nii.gz") for contrast, path in found.files.items()} == files
    assert found.name == (name or "case")


def test_two_candidates_are_refused_with_the_table_and_a_file_decides(tmp_path: Path) -> None:
    folder = write(tmp_path, ["a_T1", "a_T1_bias", "a_T1GD", "a_T2", "a_FLAIR"])
    with pytest.raises(CaseError) as caught:
        find_raw(folder)
    for said in ("t1n: a_T1.nii.gz, a_T1_bias.nii.gz", "`t1n=FILE`", "a_FLAIR.nii.gz", "by its name"):
        assert said in str(caught.value)
    for given in ("a_T1.nii.gz", str(folder / "a_T1.nii.gz")):
        assert find_raw(folder, given={"t1n": given}).files["t1n"] == folder / "a_T1.nii.gz"
    with pytest.raises(CaseError, match="is no file"):
        find_raw(folder, given={"t1n": "a_T1w.nii.gz"})


def test_the_same_name_for_two_contrasts_is_told_apart_by_the_sidecar(tmp_path: Path) -> None:
    folder = write(tmp_path, ["scan3", "scan4", "scan5", "scan6"])
    sidecars = {
        "scan3": {"SeriesDescription": "AX T1 SE", "RepetitionTime": 0.5, "EchoTime": 0.009},
        "scan4": {"RepetitionTime": 0.5, "EchoTime": 0.009, "ContrastBolusIngredient": "GADOLINIUM"},
        "scan5": {"RepetitionTime": 5.0, "EchoTime": 0.1},
        "scan6": {"RepetitionTime": 9.0, "EchoTime": 0.12, "InversionTime": 2.5},
    }
    for name, sidecar in sidecars.items():
        (folder / f"{name}.json").write_text(json.dumps(sidecar))
    found = {contrast: path.name for contrast, path in find_raw(folder).files.items()}
    assert found == {
        contrast: f"scan{number}.nii.gz" for number, contrast in enumerate(("t1n", "t1c", "t2w", "t2f"), 3)
    }
    (folder / "scan6.json").write_text("{ not JSON")
    with pytest.raises(CaseError, match="t2f: none"):
        find_raw(folder)
    assert set(find_raw(folder, allow_missing=True).files) == {"t1n", "t1c", "t2w"}


def test_a_t2_that_its_sidecar_calls_flair_is_not_guessed(tmp_path: Path) -> None:
    folder = write(tmp_path, ["T1", "T1c", "T2", "other"])
    (folder / "T2.json").write_text(json.dumps({"InversionTime": 2.5, "EchoTime": 0.12, "RepetitionTime": 9.0}))
    with pytest.raises(CaseError, match="as FLAIR has"):
        find_raw(folder)


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="No image found"):
        find_raw(tmp_path)
    with pytest.raises(CaseError, match="Cannot list"):
        find_raw(tmp_path / "none")


def test_folders_of_cases(tmp_path: Path) -> None:
    for case in ("A", "B"):
        write(tmp_path / case, [f"{case}-{contrast}" for contrast in ("t1n", "t1c", "t2w", "t2f")])
    (tmp_path / "B" / "B-t2f.nii.gz").unlink()
    ((_, first), (folder, second)), _ = list_raw(tmp_path)
    assert first is not None and first.name == "A"
    assert (folder, second) == (tmp_path / "B", None)
    with pytest.raises(CaseError, match="is no file"):
        list_raw(tmp_path, given={"t1c": "x.nii.gz"})


def test_a_mask_is_no_case_of_its_own(tmp_path: Path) -> None:
    names = [f"P-{contrast}" for contrast in ("t1n", "t1c", "t2w", "t2f")]
    ((folder, found),), _ = list_raw(write(tmp_path, [*names, "P-brainmask-t1c"]))
    assert folder == tmp_path
    assert found is not None and found.name == "P"


def test_cases_that_lie_together_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path, ["A-t1n", "A-t1c", "B-t2w", "B-t2f"])
    with pytest.raises(CaseError, match="different case names"):
        find_raw(tmp_path)
    write(tmp_path, [f"{case}-{contrast}" for case in "AB" for contrast in ("t1n", "t1c", "t2w", "t2f")])
    assert [(folder.name, found.name) for folder, found in list_raw(tmp_path)[0] if found] == [("A", "A"), ("B", "B")]
