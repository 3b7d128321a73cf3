"""Pairing files, checking them, and the tables: every scored case counts, nothing is converted in silence."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import CaseError, ConfigError, LabelError
from rediffinet.metrics import find_protocol
from rediffinet.scoring.evaluation import Pair, evaluate_cohort, evaluate_pair, find_pairs, recognise_labels
from rediffinet.scoring.tables import case_rows, summary_rows, to_csv, to_json, to_markdown, write_tables

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
LEGACY, LESIONS = find_protocol("legacy"), find_protocol("brats2023")


def save(path, labels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def tumour(et=3, size=6, dtype=np.uint8):
    labels = np.zeros((24, 22, 20), dtype)
    labels[4:18, 4:18, 4:18] = 2
    labels[6:16, 6:16, 6:16] = 1
    labels[8 : 8 + size, 8 : 8 + size, 8 : 8 + size] = et if size else 0
    return labels


@pytest.fixture
def folders(tmp_path):
    """Three cases: references in case folders beside images, predictions flat or in case folders."""
    refs, preds = tmp_path / "refs", tmp_path / "preds"
    for case in ("A", "A_1", "B-2"):
        save(refs / case / f"{case}-seg.nii.gz", tumour())
        save(refs / case / f"{case}-t1n.nii.gz", tumour())
    save(preds / "A-seg.nii.gz", tumour(size=4))
    save(preds / "A_1" / "A_1-seg.nii.gz", tumour(et=4))
    save(preds / "A_1" / "A_1-baseline.nii.gz", tumour())
    save(preds / "B-2-some-model.nii.gz", tumour(size=0))
    return preds, refs


def test_pairs_by_case_name(folders):
    pairs = find_pairs(*folders)
    assert [(pair.case, pair.prediction.name, pair.reference.name) for pair in pairs] == [
        ("A", "A-seg.nii.gz", "A-seg.nii.gz"),
        ("A_1", "A_1-seg.nii.gz", "A_1-seg.nii.gz"),
        ("B-2", "B-2-some-model.nii.gz", "B-2-seg.nii.gz"),
    ]


def test_a_longer_case_name_wins(folders):
    preds, refs = folders
    (preds / "A-seg.nii.gz").unlink()
    (preds / "A_1" / "A_1-seg.nii.gz").rename(preds / "A_1-model.nii.gz")
    problems = {pair.case: pair.problem for pair in find_pairs(preds, refs)}
    assert "no prediction" in problems["A"]
    assert problems["A_1"] == ""


def test_missing_counterparts_and_doubles_are_problems(folders):
    preds, refs = folders
    save(preds / "A.nii.gz", tumour())
    save(preds / "stray-seg.nii.gz", tumour())
    (preds / "B-2-some-model.nii.gz").unlink()
    problems = {pair.case: pair.problem for pair in find_pairs(preds, refs)}
    assert "2 predictions" in problems["A"]
    assert "no reference" in problems["stray"]
    assert "no prediction" in problems["B-2"]


def test_two_files(folders):
    preds, refs = folders
    pairs = find_pairs(preds / "A-seg.nii.gz", refs / "A" / "A-seg.nii.gz")
    assert [pair.case for pair in pairs] == ["A"]


def test_paths_that_do_not_fit(folders, tmp_path):
    preds, refs = folders
    with pytest.raises(CaseError, match="does not exist"):
        find_pairs(tmp_path / "nowhere", refs)
    with pytest.raises(CaseError, match="two files or two folders"):
        find_pairs(preds / "A-seg.nii.gz", refs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="No label map"):
        find_pairs(preds, tmp_path / "empty")


def test_older_labels_are_converted_and_named(folders):
    scores = evaluate_cohort(find_pairs(*folders), LEGACY)
    older = scores.cases[1]
    assert (older.prediction_schema, older.reference_schema) == ("brats2021", "brats2023")
    assert older.regions["ET"].dice == 1
    assert "ET = 4 read as 3" in to_markdown(scores)
    assert [row["pred_schema"] for row in case_rows(scores)[3:6]] == ["brats2021"] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_recognise_labels(dtype):
    for et, name in ((3, "brats2023"), (4, "brats2021")):
        labels, schema = recognise_labels(tumour(et, dtype=dtype), "x")
        assert schema == name
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, tumour())
    assert recognise_labels(tumour(size=0, dtype=dtype), "x")[1] == "brats2023"


@pytest.mark.parametrize(
    ("values", "words"),
    [((3, 4), "3, 4"), ((5,), "5"), ((0.5,), "0.5"), ((-1,), "-1"), ((np.nan,), "nan"), ((258,), "258")],
)
def test_unknown_labels(values, words):
    labels = np.zeros((4, 4, 4), np.float32)
    labels[0, 0, : len(values)] = values
    with pytest.raises(LabelError, match=rf"case-seg holds the values .*{words}"):
        recognise_labels(labels, "case-seg")


def test_spacing_of_the_reference_is_used(tmp_path):
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    near, far = np.zeros((20, 8, 8), np.uint8), np.zeros((20, 8, 8), np.uint8)
    near[2:5, 2:5, 2:5], far[12:15, 2:5, 2:5] = 3, 3
    files = save(tmp_path / "a.nii.gz", near, affine), save(tmp_path / "b.nii.gz", far, affine)
    assert evaluate_pair(Pair("x", *files), LEGACY).regions["ET"].hd95 == pytest.approx(20.0)
    assert evaluate_pair(Pair("x", *files), find_protocol("paper")).regions["ET"].hd95 == pytest.approx(10.0)


def test_pairs_on_other_grids_fail(tmp_path):
    reference = save(tmp_path / "ref.nii.gz", tumour())
    moved = AFFINE.copy()
    moved[0, 3] = 1
    for name, labels, affine, words in (
        ("shape", tumour()[1:], AFFINE, r"\(23, 22, 20\)"),
        ("moved", tumour(), moved, "1 mm apart"),
        ("flipped", tumour(), np.diag([1.0, -1.0, 1.0, 1.0]), "different affines"),
    ):
        with pytest.raises(LabelError, match=words):
            evaluate_pair(Pair("x", save(tmp_path / f"{name}.nii.gz", labels, affine), reference), LEGACY)


def test_one_bad_case_does_not_stop_the_others(folders):
    preds, refs = folders
    (preds / "A-seg.nii.gz").write_bytes(b"not a nifti")
    seen = []
    scores = evaluate_cohort(find_pairs(preds, refs), LESIONS, workers=2, on_case=seen.append)
    assert [case.case for case in scores.cases] == ["A_1", "B-2"]
    assert [failure.case for failure in scores.failures] == ["A"]
    assert sorted(seen) == ["A", "A_1", "B-2"]


def test_missed_regions_stay_in_the_mean(folders):
    scores = evaluate_cohort(find_pairs(*folders), LEGACY)
    rows = {(row["region"], row["metric"]): row for row in summary_rows(scores)}
    values = [row["dice"] for row in case_rows(scores) if row["region"] == "ET"]
    assert values == [pytest.approx(2 * 64 / (64 + 216)), 1, 0]
    et = rows["ET", "dice"]
    assert et["mean"] == pytest.approx(np.mean(values))
    assert (et["median"], et["q1"], et["q3"]) == tuple(np.percentile(values, (50, 25, 75)))
    assert (et["cases"], et["missed"], et["invented"], et["absent"]) == (3, 1, 0, 0)
    assert et["mean_both"] == pytest.approx(np.mean(values[:2]))
    assert rows["ET", "hd95"]["mean"] > 374 / 3
    assert "Every scored case counts" in to_markdown(scores)


def test_tables_name_the_protocol(folders, tmp_path):
    scores = evaluate_cohort(find_pairs(*folders), LESIONS)
    document = json.loads(to_json(scores))
    assert document["protocol"] == "brats2023-gli"
    assert document["hd95_definition"] == "surface"
    assert len(document["cases"]) == 9
    assert {row["metric"] for row in document["summary"]} == {"dice", "hd95", "lesion_dice", "lesion_hd95"}
    for path in write_tables(scores, tmp_path / "scores.csv"):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {(row["protocol"], row["hd95_definition"]) for row in rows} == {("brats2023-gli", "surface")}
    assert write_tables(scores, tmp_path / "scores.md") == [tmp_path / "scores.md"]
    assert "BraTS-2023 GLI" in (tmp_path / "scores.md").read_text()
    with pytest.raises(ConfigError, match=r"\.csv, \.json or \.md"):
        write_tables(scores, tmp_path / "scores.xlsx")
    assert to_csv([]) == ""
