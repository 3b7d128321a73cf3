"""One table of scores: what `rediff evaluate` writes, `rediff compare` and `rediff tables` read."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import ResultsError
from rediffinet.metrics import evaluate_case, find_protocol
from rediffinet.scoring.results import one_definition, read_results, read_results_in
from rediffinet.scoring.scores import AVERAGE, ORDER, average_row, score_rows, to_csv
from rediffinet.task import TASKS


def noisy(seed, noise, values=(2, 1, 3)):
    """A round tumour of nested labels, some of its voxels dropped."""
    rng = np.random.default_rng(seed)
    radius = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0)
    labels = np.zeros(radius.shape, np.uint8)
    for size, value in zip((8, 6, 4), values, strict=True):
        labels[radius < size] = value
    labels[rng.random(labels.shape) < noise] = 0
    return labels


@pytest.fixture
def cohort(tmp_path):
    """Four cases by two models and an expert."""
    for model, noise in (("refs", 0.0), ("rough", 0.3), ("fine", 0.1)):
        (tmp_path / model).mkdir()
        for k in range(4):
            nib.save(nib.Nifti1Image(noisy(k, noise), np.eye(4)), tmp_path / model / f"C{k}.nii.gz")
    return tmp_path


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_evaluate_writes_what_compare_and_tables_read(rediff, cohort, ending):
    for model in ("rough", "fine"):
        done = rediff("evaluate", cohort / model, cohort / "refs", "--out", cohort / f"{model}.{ending}")
        assert done.code == 0
    files = cohort / f"rough.{ending}", cohort / f"fine.{ending}"
    done = rediff("compare", *files, "--resamples", 200)
    assert (done.code, done.err) == (0, "")
    assert "A = rough" in done.out
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in done.out.splitlines()}
    for metric in ("HD95 [mm]", "Dice", "surface Dice 1 mm", "surface Dice 2 mm"):
        assert {(metric, region) for region in ("WT", "TC", "ET", "Avg")} <= rows
    table = rediff("tables", files[0], "--out", cohort / "out")
    assert table.code == 0
    assert "surface Dice 1 mm WT" in table.out
    document = json.loads(rediff("compare", *files, "--json", "--resamples", 200).out)
    by_hand = {
        model: np.mean(
            [
                np.mean([found.dice for found in evaluate_case(noisy(k, noise), noisy(k, 0.0)).values()])
                for k in range(4)
            ]
        )
        for model, noise in (("rough", 0.3), ("fine", 0.1))
    }
    row = next(r for r in document["rows"] if (r["metric"], r["region"], r["fold"]) == ("dice", "Avg", "pooled"))
    assert row["mean_a"] == pytest.approx(by_hand["rough"])
    assert row["mean_b"] == pytest.approx(by_hand["fine"])


def test_the_model_of_a_table_has_the_name_that_was_given(rediff, cohort):
    rediff("evaluate", cohort / "fine", cohort / "refs", "--out", cohort / "x.csv", "--model", "mine")
    assert read_results(cohort / "x.csv").models == ["mine"]


def test_regions_of_another_task(rediff, cohort):
    """Four regions go all the way; scores of different regions are not compared."""
    rediff("evaluate", cohort / "fine", cohort / "refs", "--out", cohort / "three.csv")
    arguments = ("--task", "glioma-post-2024", "--labels", "glioma-2023", "--model", "four")
    rediff("evaluate", cohort / "fine", cohort / "refs", "--out", cohort / "four.csv", *arguments)
    assert read_results(cohort / "four.csv").regions == ("WT", "TC", "ET", "RC", AVERAGE)
    done = rediff("compare", cohort / "three.csv", cohort / "four.csv")
    assert done.code == 2
    assert "different regions" in done.err
    assert "Dice RC" in rediff("tables", cohort / "four.csv", "--out", cohort / "out").out


def test_a_region_that_the_task_does_not_have(tmp_path):
    task = TASKS["glioma-post-2024"]
    labels = noisy(0, 0.0)
    rows = score_rows(
        evaluate_case(labels, labels, task=task), model="m", case="C", protocol=find_protocol(task=task), task=task
    )
    path = tmp_path / "a.csv"
    path.write_text(to_csv([*rows[:3], rows[3] | {"region": "cavity"}]))
    with pytest.raises(ResultsError, match=r"region is 'cavity'.\nExpected one of WT, TC, ET, RC, Avg"):
        read_results(path)
    path.write_text(to_csv(rows[:3]))
    with pytest.raises(ResultsError, match="and no RC"):
        read_results(path)


def test_the_average_of_a_case():
    protocol, task = find_protocol(), TASKS["glioma-2023"]
    scores = evaluate_case(noisy(0, 0.2), noisy(0, 0.0))
    rows = score_rows(scores, model="m", case="C", protocol=protocol, task=task, seed=3, fold=1)
    row = average_row(rows)
    assert list(row) == list(rows[0]) == list(ORDER)
    assert (row["region"], row["case"], row["seed"], row["fold"]) == ("Avg", "C", 3, 1)
    assert row["dice"] == pytest.approx(np.mean([found.dice for found in scores.values()]))
    assert row["lesion_hd95_mm"] == pytest.approx(np.mean([found.lesions.hd95 for found in scores.values()]))
    assert (row["presence"], row["reference_voxels"]) == (None, None)


def test_a_table_of_an_earlier_version_is_read(tmp_path):
    header = "model,seed,fold,case,region,dice,hd95_mm,lesion_dice,lesion_hd95_mm,reference_voxels,definition"
    rows = [f"unet,0,0,A,{region},0.5,3,,,,surface" for region in ("WT", "TC", "ET")]
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]) + "\n")
    results = read_results_in(tmp_path)
    assert results.measures == ("hd95_mm", "dice")
    assert one_definition(results) == "surface"


@pytest.mark.parametrize("text", ["{", "[]", '{"cases": 3}', '{"cases": [{"model": "a"}]}'])
def test_json_that_is_no_table(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ResultsError, match="Expected"):
        read_results(tmp_path / "a.json")


def test_columns_of_the_file_are_those_that_are_documented(rediff, cohort):
    rediff("evaluate", cohort / "fine", cohort / "refs", "--out", cohort / "x.csv")
    with (cohort / "x.csv").open(newline="") as stream:
        assert next(csv.reader(stream)) == list(ORDER)
