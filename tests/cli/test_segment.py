"""`rediff segment` on phantoms and the toy bundle: files, stdout and stderr, exit codes when it works or half works."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from rediffinet.method.models import MODELS

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
FIRST, SECOND = "BraTS-GLI-90000-000", "BraTS-GLI-90001-000"
QUICK = ("--steps", 1, "--samples", 1, "--threads", 1)


@pytest.fixture(scope="module")
def case(phantoms: Path) -> Path:
    return phantoms / FIRST


@pytest.fixture
def bundle(toy_bundle: Any) -> tuple[str, Path]:
    return "--bundle", toy_bundle.path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def warned(out: Path) -> str:
    """What stderr should say: the warnings of the report. The small phantom's brain fills its volume to the edge."""
    warnings = json.loads((out / f"{FIRST}-report.json").read_text())["warnings"]
    assert {warning["code"] for warning in warnings} <= {"tumour-at-edge"}
    return "".join(f"{FIRST}: warning ({warning['code']}): {warning['message']}\n" for warning in warnings)


def test_one_case_with_everything(rediff: Any, case: Path, bundle: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rediff("segment", case, "-o", out, *bundle, "--save-probabilities", "--save-uncertainty", "--threads", 1)
    assert done.code == 0, done.err
    kinds = (
        "seg.nii.gz",
        "baseline.nii.gz",
        "uncertainty.nii.gz",
        "probabilities.nii.gz",
        "preview.png",
        "report.json",
    )
    assert names(out) == {f"{FIRST}-{kind}" for kind in kinds}
    report = json.loads((out / f"{FIRST}-report.json").read_text())
    assert done.err == warned(out)  # no terminal, no progress
    assert done.out.startswith(f"{FIRST}: WT {report['volumes_ml']['refined']['WT']:.1f} ml")
    assert str(out) in done.out
    source = nib.load(case / f"{FIRST}-t1n.nii.gz")
    segmentation = nib.load(out / f"{FIRST}-seg.nii.gz")
    assert segmentation.shape == source.shape
    assert np.array_equal(segmentation.affine, source.affine)
    assert set(np.unique(segmentation.dataobj)) == {0, 1, 2, 3}
    with Image.open(out / f"{FIRST}-preview.png") as picture:
        picture.load()
        assert picture.format == "PNG"


def test_options_reach_the_report(rediff: Any, case: Path, bundle: Any, tmp_path: Path) -> None:
    arguments = ("--seed", 7, "--steps", 3, "--samples", 2, "--engine", "onnxruntime", "--no-preview", "--json")
    done = rediff("segment", case, "-o", tmp_path / "a", *bundle, *arguments)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    sampling = report["sampling"]
    assert (sampling["seed"], sampling["steps"], sampling["samples"]) == (7, 3, 2)
    assert report["engine"]["requested"] == "onnxruntime"
    assert "preview" not in report["outputs"]
    everywhere = json.loads(
        rediff("segment", case, "-o", tmp_path / "b", *bundle, *QUICK, "--json", "--refine-everywhere").out
    )
    assert everywhere["sampling"]["windows"] > sampling["windows"]


def test_json_is_the_report_and_nothing_else(rediff: Any, case: Path, bundle: Any, tmp_path: Path) -> None:
    done = rediff("segment", case, "-o", tmp_path, *bundle, *QUICK, "--json")
    assert json.loads(done.out) == json.loads((tmp_path / f"{FIRST}-report.json").read_text())


def test_four_explicit_files(rediff: Any, case: Path, bundle: Any, tmp_path: Path) -> None:
    folders = {}
    for contrast in CONTRASTS:  # each from a folder and under a name that says nothing
        folders[contrast] = tmp_path / contrast
        folders[contrast].mkdir()
        shutil.copy(case / f"{FIRST}-{contrast}.nii.gz", folders[contrast] / "scan.nii.gz")
    flags = [item for contrast in CONTRASTS for item in (f"--{contrast}", folders[contrast] / "scan.nii.gz")]
    explicit = rediff("segment", *flags, "-o", tmp_path / "out", *bundle, *QUICK, "--json")
    assert explicit.code == 0, explicit.err
    report = json.loads(explicit.out)
    assert [Path(entry["path"]).parent.name for entry in report["inputs"]] == list(CONTRASTS)
    by_folder = json.loads(rediff("segment", case, "-o", tmp_path / "out2", *bundle, *QUICK, "--json").out)
    assert report["volumes_ml"]["baseline"] == by_folder["volumes_ml"]["baseline"]


def test_nnunet_names_with_channels(rediff: Any, case: Path, bundle: Any, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    for number, contrast in enumerate(("t2f", "t1n", "t1c", "t2w")):
        shutil.copy(case / f"{FIRST}-{contrast}.nii.gz", folder / f"X_000{number}.nii.gz")
    done = rediff("segment", folder, "-o", tmp_path / "o", *bundle, *QUICK, "--channels", "t2f,t1n,t1c,t2w", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["case"] == "X"
    assert {entry["contrast"]: Path(entry["path"]).name[5] for entry in report["inputs"]} == {
        "t1n": "1",
        "t1c": "2",
        "t2w": "3",
        "t2f": "0",
    }


def test_without_an_output_folder_one_named_after_the_case_is_made_here(
    rediff: Any, case: Path, bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rediff("segment", case, *bundle, *QUICK).code == 0
    assert f"{FIRST}-report.json" in names(tmp_path / FIRST)


def test_the_reference_in_the_cases_own_folder_survives(
    rediff: Any, case: Path, bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder above, the default output folder is the case itself, which holds X-seg.nii.gz."""
    shutil.copytree(case, tmp_path / FIRST)
    monkeypatch.chdir(tmp_path)
    before = (case / f"{FIRST}-seg.nii.gz").read_bytes()
    for overwrite in ((), ("--overwrite",)):
        assert rediff("segment", FIRST, *bundle, *QUICK, *overwrite).code == 2
        assert (tmp_path / FIRST / f"{FIRST}-seg.nii.gz").read_bytes() == before


def test_a_cohort(rediff: Any, phantoms: Path, bundle: Any, tmp_path: Path) -> None:
    done = rediff("segment", phantoms, "-o", tmp_path, *bundle, *QUICK, "--no-preview", "--json")
    assert done.code == 0, done.err
    assert [report["case"] for report in json.loads(done.out)] == [FIRST, SECOND]
    assert names(tmp_path) == {"cohort.csv", "cohort.json", "cohort.log"} | {
        f"{name}-{kind}" for name in (FIRST, SECOND) for kind in ("seg.nii.gz", "baseline.nii.gz", "report.json")
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_one_bad_case_of_a_cohort_is_listed_and_the_others_are_written(
    rediff: Any, phantoms: Path, bundle: Any, tmp_path: Path, as_json: bool
) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    shutil.copytree(phantoms, cohort)
    shutil.copytree(cohort / FIRST, cohort / "broken")
    (cohort / "broken" / f"{FIRST}-t2w.nii.gz").unlink()
    done = rediff("segment", cohort, "-o", out, *bundle, *QUICK, "--no-preview", *(("--json",) if as_json else ()))
    assert done.code == 3
    assert f"{cohort / 'broken'}: failed: " in done.err
    assert "missing: t2w" in done.err
    assert "1 of 3 cases failed, 2 were written" in done.err
    assert "Traceback" not in done.err
    assert {path.name for path in out.glob("*-report.json")} == {f"{FIRST}-report.json", f"{SECOND}-report.json"}
    if as_json:
        assert [report["case"] for report in json.loads(done.out)] == [FIRST, SECOND]
    else:
        assert [line.split(":")[0] for line in done.out.splitlines()] == [FIRST, SECOND]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_by_the_same_command(
    rediff: Any, case: Path, make_toy_bundle: Any, tmp_path: Path, model: str
) -> None:
    path = make_toy_bundle(model=model, spacing_mm=(2.0, 2.0, 2.0)).path
    done = rediff("segment", case, "-o", tmp_path, "--bundle", path, *QUICK)
    assert (done.code, done.err) == (0, warned(tmp_path))
    kinds = {"seg.nii.gz", "report.json", "preview.png"} | (set() if model == "diff-unet" else {"baseline.nii.gz"})
    assert names(tmp_path) == {f"{FIRST}-{kind}" for kind in kinds}
    assert ("(baseline" in done.out) == (model != "diff-unet")
    assert ("samples ×" in done.out) == MODELS[model].samples


def test_a_mask_from_elsewhere(rediff: Any, case: Path, bundle: Any, tmp_path: Path) -> None:
    """The reference of a phantom is a label map that another program could have made."""
    mask = case / f"{FIRST}-seg.nii.gz"
    done = rediff("segment", case, "-o", tmp_path, *bundle, *QUICK, "--baseline-mask", mask, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)["baseline"]
    digest = hashlib.sha256(mask.read_bytes()).hexdigest()
    assert told == {"source": "file", "path": str(mask), "sha256": digest, "labels": "glioma-2023"}
    given, written = (np.asarray(nib.load(path).dataobj) for path in (mask, tmp_path / f"{FIRST}-baseline.nii.gz"))
    assert np.array_equal(given, written)


def test_the_margin_in_mm_where_it_was_fitted_and_nowhere_else(
    rediff: Any, case: Path, bundle: Any, make_toy_bundle: Any, tmp_path: Path
) -> None:
    fitted = ("--bundle", make_toy_bundle(margin={"scale_mm": [9.0, 9.0, 9.0]}).path)
    out = tmp_path / "out"
    done = rediff("segment", case, "-o", out, *fitted, *QUICK, "--save-margin")
    assert done.code == 0, done.err
    assert f"{FIRST}-margin.nii.gz" in names(out)
    report = json.loads((out / f"{FIRST}-report.json").read_text())
    assert report["margin"]["median_mm"].keys() == {"WT", "TC", "ET"} and "margin" in report["outputs"]
    mask = ("--baseline-mask", case / f"{FIRST}-seg.nii.gz")
    for arguments, told in ((bundle, "bundle 'toy' has none"), ((*fitted, *mask), "masks made elsewhere")):
        refused = rediff("segment", case, "-o", tmp_path / "none", *arguments, *QUICK, "--save-margin")
        assert refused.code == 2 and told in refused.err and "--save-margin" in refused.err
        assert not (tmp_path / "none").exists()
    given = rediff("segment", case, "-o", tmp_path / "given", *fitted, *mask, *QUICK, "--json")
    assert json.loads(given.out)["margin"] is None


def test_a_folder_of_masks_for_a_cohort(rediff: Any, phantoms: Path, bundle: Any, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    shutil.copy(phantoms / FIRST / f"{FIRST}-seg.nii.gz", masks / f"{FIRST}.nii.gz")
    arguments = ("-o", tmp_path / "out", *bundle, *QUICK, "--no-preview", "--baseline-mask", masks, "--json")
    done = rediff("segment", phantoms, *arguments)
    assert done.code == 3
    assert f"holds no mask of case {SECOND}" in done.err
    (report,) = json.loads(done.out)
    assert (report["case"], report["baseline"]["path"]) == (FIRST, str(masks / f"{FIRST}.nii.gz"))


def test_segmenting_needs_no_torch(case: Path, toy_bundle: Any, tmp_path: Path) -> None:
    """In a process of its own, from the command to the files: no torch, no package of training or DICOM."""
    arguments = ["segment", str(case), "-o", str(tmp_path / "out"), "--bundle", str(toy_bundle.path), "--steps", "1"]
    program = f"""
import sys
sys.argv = ["rediff", *{arguments!r}]
from rediffinet.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
found = {{name.partition(".")[0] for name in sys.modules}} & {{"torch", "monai", "onnx", "safetensors", "pydicom"}}
assert not found, sorted(found)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{FIRST}-seg.nii.gz" in names(tmp_path / "out")
