"""Names of the three conventions, and the table that explains what did not match."""

import itertools

import pytest

from rediffinet.errors import CaseError, LabelError
from rediffinet.io.naming import case_name, find_cases, find_contrasts, find_labels, parse_channels

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

CONVENTIONS = {
    "brats2023": [
        "BraTS-GLI-00001-000-t1n",
        "BraTS-GLI-00001-000-t1c",
        "BraTS-GLI-00001-000-t2w",
        "BraTS-GLI-00001-000-t2f",
    ],
    "brats2021": ["BraTS2021_00006_t1", "BraTS2021_00006_t1ce", "BraTS2021_00006_t2", "BraTS2021_00006_flair"],
    "capitals": ["A_1_T1", "A_1_T1CE", "A_1_T2", "A_1_FLAIR"],
    "contrast only": ["t1n", "t1c", "t2w", "t2f"],
}


def fill(folder, names, suffix=".nii.gz"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}{suffix}").touch()
    return folder


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".NII.GZ"])
@pytest.mark.parametrize("names", CONVENTIONS.values(), ids=CONVENTIONS)
def test_each_convention_is_recognised(tmp_path, names, suffix):
    fill(tmp_path, [*names, "notes", "BraTS2021_00006_mask"], suffix)
    found = find_contrasts(tmp_path)
    assert list(found) == list(CONTRASTS)
    assert [path.name for path in found.values()] == [name + suffix for name in names]


@pytest.mark.parametrize("order", list(itertools.permutations(CONTRASTS)))
def test_nnunet_channels_are_read_in_the_given_order(tmp_path, order):
    fill(tmp_path, [f"BRATS_001_000{number}" for number in range(4)])
    found = find_contrasts(tmp_path, ",".join(order))
    assert list(found) == list(CONTRASTS)
    assert all(found[contrast].name == f"BRATS_001_000{order.index(contrast)}.nii.gz" for contrast in CONTRASTS)


def test_nnunet_names_without_channels_ask_for_them(tmp_path):
    fill(tmp_path, [f"BRATS_001_000{number}" for number in range(4)])
    with pytest.raises(CaseError, match='channels="t1n,t1c,t2w,t2f"'):
        find_contrasts(tmp_path)


def test_channels_take_old_names_too():
    assert parse_channels("flair, T1, t1ce, t2") == ("t2f", "t1n", "t1c", "t2w")


@pytest.mark.parametrize("channels", ["t1n,t1c,t2w", "t1n,t1,t2w,t2f", "t1n,t1c,t2w,pd", ""])
def test_channels_must_name_each_contrast_once(channels):
    with pytest.raises(CaseError, match="Expected each of t1n, t1c, t2w, t2f once"):
        parse_channels(channels)


@pytest.mark.parametrize("absent", range(4))
def test_the_table_shows_the_missing_contrast_and_what_would_match(tmp_path, absent):
    names = CONVENTIONS["brats2021"]
    fill(tmp_path, names[:absent] + names[absent + 1 :])
    with pytest.raises(CaseError) as caught:
        find_contrasts(tmp_path)
    message = str(caught.value)
    row = next(line for line in message.splitlines() if line.split()[:2] == [CONTRASTS[absent], "nothing"])
    assert f"missing: {CONTRASTS[absent]})" in message
    assert f"ID-{CONTRASTS[absent]}.nii.gz" in row
    assert all(f"{name}.nii.gz" in message for number, name in enumerate(names) if number != absent)


@pytest.mark.parametrize("second", ["X_t1ce.nii.gz", "X-t1c.nii", "Y-t1c.nii.gz"])
def test_two_candidates_for_one_contrast_are_refused_and_both_named(tmp_path, second):
    fill(tmp_path, [f"X-{contrast}" for contrast in CONTRASTS])
    (tmp_path / second).touch()
    with pytest.raises(CaseError, match="more than one file: t1c") as caught:
        find_contrasts(tmp_path)
    assert second in str(caught.value)
    assert "X-t1c.nii.gz" in str(caught.value)


def test_nnunet_and_brats_names_together_are_ambiguous(tmp_path):
    fill(tmp_path, [*(f"X-{contrast}" for contrast in CONTRASTS), "X_0000"])
    with pytest.raises(CaseError, match="more than one file: t2f"):
        find_contrasts(tmp_path, ("t2f", "t1n", "t1c", "t2w"))


def test_contrasts_of_different_cases_are_not_mixed(tmp_path):
    fill(tmp_path, ["A-t1n", "A-t1c", "A-t2w", "B-t2f"])
    with pytest.raises(CaseError, match="different case names"):
        find_contrasts(tmp_path)


def test_hidden_files_and_folders_are_not_images(tmp_path):
    fill(tmp_path, [f"X-{contrast}" for contrast in CONTRASTS])
    (tmp_path / "._X-t1n.nii.gz").touch()
    (tmp_path / "Y-t1n.nii").mkdir()
    assert find_contrasts(tmp_path)["t1n"].name == "X-t1n.nii.gz"


def test_a_case_folder_is_one_case_and_a_cohort_is_its_sorted_cases(tmp_path):
    for case in ("b", "a", "c"):
        fill(tmp_path / case, [f"{case}-{contrast}" for contrast in CONTRASTS])
    fill(tmp_path / "incomplete", ["d_t1"])
    fill(tmp_path / "other", ["d_seg", "readme"])
    assert [path.name for path in find_cases(tmp_path)] == ["a", "b", "c", "incomplete"]
    assert find_cases(tmp_path / "b") == [tmp_path / "b"]


def test_no_case_a_file_and_an_absent_folder_are_told_apart(tmp_path):
    with pytest.raises(CaseError, match="No case found"):
        find_cases(tmp_path)
    with pytest.raises(CaseError, match="No such file"):
        find_cases(tmp_path / "absent")
    (tmp_path / "x.nii").touch()
    with pytest.raises(CaseError, match="Not a directory"):
        find_cases(tmp_path / "x.nii")


def test_the_name_of_a_case_is_shared_by_its_files_or_that_of_the_folder(tmp_path):
    named = fill(tmp_path / "folder", CONVENTIONS["brats2023"])
    assert case_name(find_contrasts(named), named) == "BraTS-GLI-00001-000"
    bare = fill(tmp_path / "patient 7", CONVENTIONS["contrast only"])
    assert case_name(find_contrasts(bare), bare) == "patient 7"


@pytest.mark.parametrize("name", ["X-seg.nii.gz", "X_seg.nii.gz", "X_SEG.nii"])
def test_the_reference_segmentation_is_found(tmp_path, name):
    assert find_labels(fill(tmp_path, ["X-t1n"])) is None
    (tmp_path / name).touch()
    assert find_labels(tmp_path) == tmp_path / name


def test_two_segmentations_are_refused(tmp_path):
    with pytest.raises(LabelError, match="holds 2 segmentations"):
        find_labels(fill(tmp_path, ["X-seg", "X_seg"]))
