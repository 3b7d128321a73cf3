"""The tables as pandas reads them: numbers are numbers, what is missing is NaN, a row is a case."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="pandas is not installed")
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture
def out(rediff: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> Path:
    """A cohort of three, of which one failed."""
    for name in ("001", "002", "003"):
        folder = tmp_path / "cohort" / name
        folder.mkdir(parents=True)
        for contrast in CONTRASTS:
            shutil.copy(toy_folder / f"toy-{contrast}.nii.gz", folder / f"{name}-{contrast}.nii.gz")
    (tmp_path / "cohort" / "002" / "002-t2w.nii.gz").unlink()
    options = ("--bundle", toy_bundle.path, "--engine", "onnxruntime", "--threads", 1, "--no-preview")
    assert rediff("segment", tmp_path / "cohort", "-o", tmp_path / "out", *options).code == 3
    return tmp_path / "out"


def reported(out: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"{name}-report.json").read_text())
    return found


def test_the_table_of_a_cohort(out: Path) -> None:
    table = pd.read_csv(out / "cohort.csv", dtype={"case": str})
    assert list(table["case"]) == ["001", "002", "003"]
    assert list(table["state"]) == ["done", "failed", "done"]
    numbers = ["WT_ml", "TC_ml", "ET_ml", "seconds"]
    assert all(table[name].dtype == np.float64 for name in numbers)
    assert table[numbers].isna().all(axis=1).tolist() == [False, True, False]
    assert table["error"].isna().tolist() == [True, False, True]
    assert table["report"].isna().tolist() == [False, True, False]
    expected = np.mean([reported(out, name)["volumes_ml"]["refined"]["WT"] for name in ("001", "003")])
    assert table["WT_ml"].mean() == pytest.approx(expected, abs=1e-3)  # NaN counts nowhere


def test_the_same_table_as_json(out: Path) -> None:
    table = pd.json_normalize(json.loads((out / "cohort.json").read_text())["cases"])
    assert list(table["case"]) == ["001", "002", "003"]
    for name in ("volumes.WT", "volumes.TC", "volumes.ET", "seconds"):
        assert table[name].dtype == np.float64
        assert table[name].isna().tolist() == [False, True, False]
    volumes = reported(out, "003")["volumes_ml"]["refined"]
    assert table.loc[2, "volumes.TC"] == pytest.approx(volumes["TC"], abs=1e-3)


def test_a_cohort_of_which_nothing_was_done_has_no_numbers(rediff: Any, out: Path, tmp_path: Path) -> None:
    from rediffinet.clinic.cohort import list_inputs
    from rediffinet.clinic.table import CohortTable

    CohortTable(tmp_path / "other", list_inputs(tmp_path / "cohort"))
    table = pd.read_csv(tmp_path / "other" / "cohort.csv", dtype={"case": str})
    assert len(table) == 3 and set(table["state"]) == {"waiting"}
    assert all(table[name].dtype == np.float64 and table[name].isna().all() for name in ("WT_ml", "seconds"))


def test_the_scores_of_evaluate(rediff: Any, out: Path, tmp_path: Path) -> None:
    references = tmp_path / "references"
    references.mkdir()
    for name in ("001", "003"):
        stored = nib.load(out / f"{name}-seg.nii.gz")
        labels = np.roll(np.asanyarray(stored.dataobj), 2 if name == "003" else 0, axis=0)
        labels[labels == 3] = 0 if name == "001" else 3
        nib.save(nib.Nifti1Image(labels, stored.affine, stored.header), references / f"{name}-seg.nii.gz")
    assert rediff("evaluate", out, references, "--out", tmp_path / "scores.csv").code in (0, 3)
    table = pd.read_csv(tmp_path / "scores.csv", dtype={"case": str})
    assert table.groupby(["case", "region"]).size().tolist() == [1] * 6  # a row a case and region
    for name in ("dice", "hd95_mm", "lesion_dice", "lesion_hd95_mm"):
        assert table[name].dtype == np.float64
    wide = table.pivot(index="case", columns="region", values="dice")
    first = np.asanyarray(nib.load(out / "003-seg.nii.gz").dataobj) > 0
    second = np.asanyarray(nib.load(references / "003-seg.nii.gz").dataobj) > 0
    assert wide.loc["003", "WT"] == pytest.approx(2 * (first & second).sum() / (first.sum() + second.sum()), rel=1e-5)
    summary = pd.read_csv(tmp_path / "scores-summary.csv")
    assert summary["mean"].dtype == np.float64
    of = summary.set_index(["region", "metric"]).loc[("WT", "dice"), "mean"]
    assert of == pytest.approx(wide["WT"].mean(), rel=1e-5)
