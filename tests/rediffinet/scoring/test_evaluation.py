"""Reading and scoring pairs of files, and the tables: every scored case counts, nothing is converted in silence."""

import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import ConfigError, LabelError, OutputError
from rediffinet.io.conventions import ConventionError
from rediffinet.metrics import evaluate_case, find_protocol
from rediffinet.scoring.evaluation import Rules, evaluate_cohort, evaluate_pair
from rediffinet.scoring.pairs import Pair, find_pairs
from rediffinet.scoring.scores import COLUMNS, ORDER, to_csv
from rediffinet.scoring.tables import case_rows, summary_rows, to_json, to_markdown, write_tables
from rediffinet.task import TASKS

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
LEGACY, LESIONS = Rules(protocol=find_protocol("legacy")), Rules(protocol=find_protocol("brats2023"))


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
    save(preds / "A_1" / "A_1-seg.nii.gz", tumour())
    save(preds / "A_1" / "A_1-baseline.nii.gz", tumour())
    save(preds / "B-2-pred.nii.gz", tumour(size=0))
    return preds, refs


def older(folder):
    """The maps of a folder as BraTS 2021 numbers them."""
    for path in folder.rglob("*.nii.gz"):
        image = nib.load(path)
        labels = np.asarray(image.dataobj)
        save(path, np.where(labels == 3, 4, labels).astype(np.uint8))


def test_older_labels_are_converted_and_named(folders):
    expected = evaluate_cohort(find_pairs(*folders), LEGACY)
    older(folders[0])
    scores = evaluate_cohort(find_pairs(*folders), LEGACY)
    assert [case.regions for case in scores.cases] == [case.regions for case in expected.cases]
    assert (scores.predictions.name, scores.references.name) == ("glioma-2021", "glioma-2023")
    assert "The predictions were read as 'glioma-2021' (NCR = 1, ED = 2, ET = 4)" in to_markdown(scores)
    assert json.loads(to_json(scores))["labels"] == {"predictions": "glioma-2021", "references": "glioma-2023"}


def test_a_cohort_of_two_conventions_is_refused(folders):
    save(folders[0] / "A-seg.nii.gz", tumour(et=4))
    with pytest.raises(ConventionError, match=r"(?s)in 2 conventions.*'glioma-2021'.*'glioma-2023'|2023.*2021"):
        evaluate_cohort(find_pairs(*folders), LEGACY, workers=2)


def test_labels_that_need_a_name_stop_the_cohort_whichever_case_has_them(folders):
    """A cavity looks like enhancing tumour of BraTS 2021 in one case, and gives itself away in another."""
    save(folders[1] / "A" / "A-seg.nii.gz", tumour(et=4))
    labels = tumour()
    labels[0:3, 0:3, 0:3] = 4
    save(folders[1] / "B-2" / "B-2-seg.nii.gz", labels)
    with pytest.raises(ConventionError):
        evaluate_cohort(find_pairs(*folders), LEGACY)
    rules = Rules(protocol=find_protocol("legacy"), references=TASKS["glioma-post-2024"])
    scores = evaluate_cohort(find_pairs(*folders), rules)
    assert scores.cases[0].regions["ET"].ref_voxels == 0  # the cavity is no tumour
    assert scores.cases[2].regions["WT"].ref_voxels == 14**3


def test_a_cohort_scored_with_its_cavities(folders):
    rules = Rules(TASKS["glioma-post-2024"], find_protocol("legacy"))
    save(folders[1] / "A" / "A-seg.nii.gz", tumour(et=4))
    save(folders[0] / "A-seg.nii.gz", tumour(et=4))
    scores = evaluate_cohort(find_pairs(*folders), rules)
    assert list(scores.cases[0].regions) == ["WT", "TC", "ET", "RC"]
    assert [scores.cases[0].regions[name].ref_voxels for name in ("ET", "RC")] == [0, 216]
    assert {row["region"] for row in summary_rows(scores)} == {"WT", "TC", "ET", "RC"}


def permuted(labels, order):
    """Labels renumbered by a table: order[k] for k."""
    return np.array(order, np.uint8)[labels]


@pytest.mark.parametrize(
    ("labels", "convention", "task", "order"),
    [
        ("nnunet", "glioma-decathlon", "glioma-2023", (0, 2, 1, 3)),  # 1 edema, 2 necrosis
        ("pediatric-2024", "pediatric-2024", "pediatric-2023", (0, 2, 4, 1)),  # 1 ET, 2 NET, 3 CC, 4 ED
        ("brats2021", "glioma-2021", "glioma-2023", (0, 1, 2, 4)),
    ],
)
def test_a_convention_that_is_named_is_read_right(tmp_path, labels, convention, task, order):
    from rediffinet.task import find_task

    pred = save(tmp_path / "a.nii.gz", permuted(tumour(size=4), order))
    ref = save(tmp_path / "b.nii.gz", tumour())
    scores = evaluate_cohort(
        [Pair("x", pred, ref)], Rules(TASKS[task], find_protocol("legacy"), predictions=find_task(labels))
    )
    assert scores.predictions.name == convention
    assert scores.cases[0].regions == evaluate_case(tumour(size=4), tumour(), protocol="legacy", task=TASKS[task])


def test_pediatric_labels_under_the_pediatric_task_have_to_be_named(tmp_path):
    """1 ET, 2 NET, 4 ED would pass for BraTS 2021: there is no pediatric 2021."""
    files = [save(tmp_path / f"{name}.nii.gz", permuted(tumour(), (0, 2, 4, 1))) for name in "ab"]
    with pytest.raises(ConventionError, match=r"(?s)values 0, 1, 2, 4.*pediatric-2024.*name it"):
        evaluate_pair(Pair("x", *files), Rules(TASKS["pediatric-2023"], find_protocol("legacy")))
    scores = evaluate_pair(Pair("x", *files), Rules(TASKS["pediatric-2024"], find_protocol("legacy")))
    assert {name: (found.dice, found.ref_voxels) for name, found in scores.regions.items()} == {
        "WT": (1, 14**3),
        "TC": (1, 10**3),
        "ET": (1, 6**3),
        "CC": (1, 0),
    }


def test_a_convention_that_is_named_is_checked(tmp_path):
    files = [save(tmp_path / f"{name}.nii.gz", tumour(et=4)) for name in "ab"]
    with pytest.raises(LabelError, match=r"values 0, 1, 2, 4.\nExpected 0 and NCR = 1, ED = 2, ET = 3"):
        evaluate_pair(Pair("x", *files), Rules(predictions=TASKS["glioma-2023"]))


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ((0, 2, 1, 3), r"labels NCR and ED on one side .*Dice of TC from 0\.\d+ to 1\.00.*'glioma-decathlon'"),
        ((0, 3, 2, 1), r"labels NCR and ET on one side"),
        ((0, 2, 3, 1), r"labels .* for .* on one side"),
    ],
)
def test_labels_in_another_order_are_noticed(tmp_path, order, words):
    pred, ref = save(tmp_path / "a.nii.gz", permuted(tumour(), order)), save(tmp_path / "b.nii.gz", tumour())
    (hint,) = evaluate_cohort([Pair("x", pred, ref)], LEGACY).hints
    assert re.search(words, hint)


def test_a_map_in_the_right_order_is_left_alone(folders):
    assert evaluate_cohort(find_pairs(*folders), LEGACY).hints == ()


@pytest.mark.parametrize("slope", [0.1, 1 / 3, 1.0])
def test_scaled_integers_are_whole_numbers(tmp_path, slope):
    image = nib.Nifti1Image((tumour() / slope).round().astype(np.int16), AFFINE)
    image.header.set_slope_inter(slope, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    files = tmp_path / "a.nii.gz", save(tmp_path / "b.nii.gz", tumour())
    assert all(found.dice == 1 for found in evaluate_pair(Pair("x", *files), LEGACY).regions.values())


def test_directions_rounded_by_another_program(tmp_path):
    """A corner 0.05 mm away is the same grid, and is said; a fifth of a voxel is not."""
    reference = save(tmp_path / "ref.nii.gz", tumour())
    for shift, fine in ((0.05, True), (0.2, False)):
        moved = AFFINE.copy()
        moved[0, 3] += shift
        pair = Pair("x", save(tmp_path / "pred.nii.gz", tumour(), moved), reference)
        if fine:
            scores = evaluate_cohort([pair], LEGACY)
            assert "0.05 mm apart" in to_markdown(scores)
            assert scores.cases[0].regions["ET"].dice == 1
        else:
            with pytest.raises(LabelError, match=r"(?s)0\.2 mm apart.*within 0\.1 of a voxel"):
                evaluate_pair(pair, LEGACY)


def test_the_affines_of_an_error_can_be_told_apart(tmp_path):
    turned = AFFINE.copy()
    turned[0, 1] = 0.0123456
    files = save(tmp_path / "a.nii.gz", tumour(), turned), save(tmp_path / "b.nii.gz", tumour())
    with pytest.raises(LabelError, match=r"0\.01234\d+"):
        evaluate_pair(Pair("x", *files), LEGACY)


def test_spacing_of_the_reference_is_used(tmp_path):
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    near, far = np.zeros((20, 8, 8), np.uint8), np.zeros((20, 8, 8), np.uint8)
    near[2:5, 2:5, 2:5], far[12:15, 2:5, 2:5] = 3, 3
    files = save(tmp_path / "a.nii.gz", near, affine), save(tmp_path / "b.nii.gz", far, affine)
    assert evaluate_pair(Pair("x", *files), LEGACY).regions["ET"].hd95 == pytest.approx(20.0)
    assert evaluate_pair(Pair("x", *files), Rules(protocol=find_protocol("paper"))).regions["ET"].hd95 == pytest.approx(
        10.0
    )


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
    assert rows["ET", "hd95_mm"]["mean"] > 374 / 3
    assert "Every scored case counts" in to_markdown(scores)


def test_tables_name_the_protocol(folders, tmp_path):
    scores = evaluate_cohort(find_pairs(*folders), LESIONS)
    document = json.loads(to_json(scores))
    assert document["protocol"] == "brats2023-gli"
    assert document["hd95_definition"] == "surface"
    assert len(document["cases"]) == 9
    assert document["task"] == TASKS["glioma-2023"].model_dump(mode="json")
    assert {row["metric"] for row in document["summary"]} == {
        *("dice", "hd95_mm", "lesion_dice", "lesion_hd95_mm", "surface_dice_1mm", "surface_dice_2mm")
    }
    for path in write_tables(scores, tmp_path / "scores.csv"):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {row["protocol"] for row in rows} == {"brats2023-gli"}
        if path.name == "scores.csv":
            assert list(rows[0]) == list(ORDER)
            assert set(COLUMNS) < set(ORDER)
            assert "HD95 definition: surface, in mm" in rows[0]["definition"]
        else:
            assert {row["hd95_definition"] for row in rows} == {"surface"}
    assert write_tables(scores, tmp_path / "scores.md") == [tmp_path / "scores.md"]
    assert "BraTS-2023 GLI" in (tmp_path / "scores.md").read_text()
    with pytest.raises(ConfigError, match=r"\.csv, \.json or \.md"):
        write_tables(scores, tmp_path / "scores.xlsx")
    with pytest.raises(OutputError, match="Cannot write"):
        write_tables(scores, tmp_path / "absent" / "scores.csv")
    assert to_csv([]) == ""
