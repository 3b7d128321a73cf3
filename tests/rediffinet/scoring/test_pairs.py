"""Pairing predictions with references: by the case's name, exactly, but for the stated suffixes."""

import pytest

from rediffinet.errors import CaseError
from rediffinet.scoring.pairs import SUFFIXES, find_pairs


def fill(folder, *names):
    for name in names:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.fixture
def refs(tmp_path):
    """Three cases in case folders beside images."""
    names = [f"{case}/{case}-{what}" for case in ("A", "A_1", "B-2") for what in ("seg", "t1n", "flair", "0003")]
    return fill(tmp_path / "refs", *names)


def paired(pairs):
    return {pair.case: pair.prediction.name for pair in pairs if not pair.problem}


def problems(pairs):
    return {pair.case: pair.problem for pair in pairs if pair.problem}


def test_flat_files_and_case_folders(refs, tmp_path):
    preds = fill(tmp_path / "preds", "A", "A_1/A_1-seg", "A_1/A_1-baseline", "A_1/A_1-uncertainty", "B-2_pred")
    pairs = find_pairs(preds, refs)
    assert paired(pairs) == {"A": "A.nii.gz", "A_1": "A_1-seg.nii.gz", "B-2": "B-2_pred.nii.gz"}
    assert [pair.reference.name for pair in pairs] == ["A-seg.nii.gz", "A_1-seg.nii.gz", "B-2-seg.nii.gz"]


@pytest.mark.parametrize("suffix", ["", *(f"{dash}{word}" for word in SUFFIXES for dash in "-_"), "-SEG"])
def test_every_stated_suffix(tmp_path, suffix):
    preds, refs = fill(tmp_path / "preds", f"P1{suffix}"), fill(tmp_path / "refs", "P1-seg")
    assert paired(find_pairs(preds, refs)) == {"P1": f"P1{suffix}.nii.gz"}


@pytest.mark.parametrize("name", ["P1_FU2", "P1-2", "P1.2", "P1_seg_FU2", "P1-some-model", "P10", "p1", "P1 "])
def test_another_examination_is_another_case_and_both_are_listed(tmp_path, name):
    preds, refs = fill(tmp_path / "preds", name), fill(tmp_path / "refs", "P1")
    found = problems(find_pairs(preds, refs))
    assert set(found) == {"P1", name}
    assert "has no prediction" in found["P1"]
    assert "has no reference" in found[name]


def test_the_other_way_round_too(tmp_path):
    preds, refs = fill(tmp_path / "preds", "P1"), fill(tmp_path / "refs", "P1_FU2", "P1_FU2-t1c")
    assert set(problems(find_pairs(preds, refs))) == {"P1", "P1_FU2"}


def test_a_name_that_goes_on_says_how_to_name_the_program(refs, tmp_path):
    preds = fill(tmp_path / "preds", "A_1-some-model", "A_1-some-model-seg")
    found = problems(find_pairs(preds, refs))["A_1-some-model"]
    assert "2 predictions" in found
    preds = fill(tmp_path / "other", "A_1-some-model")
    found = problems(find_pairs(preds, refs))["A_1-some-model"]
    assert "There is A_1: only where '-some-model' names the program and not another examination" in found


def test_a_suffix_that_is_given(refs, tmp_path):
    preds = fill(tmp_path / "preds", "A-some-model", "A-other", "A-seg", "A_1/A_1-some-model", "B-2/some-model", "B-2")
    pairs = find_pairs(preds, refs, "-some-model")
    assert paired(pairs) == {"A": "A-some-model.nii.gz", "A_1": "A_1-some-model.nii.gz", "B-2": "some-model.nii.gz"}
    preds = fill(tmp_path / "ours", "A/A-seg", "A/A-baseline")
    assert paired(find_pairs(preds, refs, "-baseline")) == {"A": "A-baseline.nii.gz"}
    assert "such as A_1-baseline.nii.gz" in problems(find_pairs(preds, refs, "-baseline"))["A_1"]


@pytest.mark.parametrize("name", ["seg", "segmentation", "mask", "prediction"])
def test_a_file_that_is_named_after_its_folder(tmp_path, name):
    preds = fill(tmp_path / "preds", f"P1/{name}", "P1/t1c", "P1/baseline", "P2/P2-seg")
    refs = fill(tmp_path / "refs", "P1/seg", "P1/flair", "P2/seg")
    assert paired(find_pairs(preds, refs)) == {"P1": f"{name}.nii.gz", "P2": "P2-seg.nii.gz"}
    assert paired(find_pairs(preds / "P1", refs / "P1")) == {"P1": f"{name}.nii.gz"}


def test_missing_counterparts_and_doubles_are_problems(refs, tmp_path):
    found = problems(find_pairs(fill(tmp_path / "preds", "A", "A-seg", "stray-seg"), refs))
    assert "2 predictions" in found["A"]
    assert "no reference" in found["stray"]
    assert "no prediction" in found["B-2"]
    fill(refs, "A")
    assert "2 references" in problems(find_pairs(tmp_path / "preds", refs))["A"]


def test_two_files_are_a_pair_whatever_they_are_called(refs, tmp_path):
    preds = fill(tmp_path / "preds", "x_FU2", "seg")
    for name in ("x_FU2", "seg"):
        (pair,) = find_pairs(preds / f"{name}.nii.gz", refs / "A" / "A-seg.nii.gz")
        assert (pair.case, pair.problem) == ("A", "")
    (pair,) = find_pairs(preds / "x_FU2.nii.gz", preds / "seg.nii.gz")
    assert pair.case == "preds"


def test_hidden_files_do_not_count(refs, tmp_path):
    preds = fill(tmp_path / "preds", "A", ".A-seg", ".hidden/A-seg")
    assert paired(find_pairs(preds, refs)) == {"A": "A.nii.gz"}


def test_paths_that_do_not_fit(refs, tmp_path):
    preds = fill(tmp_path / "preds", "A-seg")
    with pytest.raises(CaseError, match="does not exist"):
        find_pairs(tmp_path / "nowhere", refs)
    with pytest.raises(CaseError, match="two files or two folders"):
        find_pairs(preds / "A-seg.nii.gz", refs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="No label map"):
        find_pairs(preds, tmp_path / "empty")
