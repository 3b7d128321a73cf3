"""`rediff prepare` and `rediff segment --prepare` on the series of a phantom; the real raw case where it lies."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra [prepare]")

ROOT = Path(__file__).resolve().parent.parent.parent
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture(scope="session")
def raw_case() -> dict[str, Path]:
    """The files of a real raw case, by contrast, and a brain mask of another tool on t1c's grid."""
    folder = Path(os.environ.get("REDIFF_RAW_CASE", ROOT.parent / "shared" / "raw" / "TCGA-FG-6692"))
    if not folder.is_dir():
        pytest.skip(f"no raw case: {folder} is not a folder (set REDIFF_RAW_CASE to one)")
    name = folder.name
    return {key: folder / f"{name}-{key}.nii.gz" for key in (*CONTRASTS, "brainmask-t1c")}


def flags(files: dict[str, Path]) -> list[Any]:
    return [part for contrast in CONTRASTS for part in (f"--{contrast}", files[contrast])]


@pytest.fixture
def small_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A head of a third of its size, in `raw` but for one contrast or none, its brain in a mask: all is quick.

    small_head(without) → its affine and shape, and the flags that name the mask.
    """
    from rediffinet.phantom import make_head_phantom
    from rediffinet.prepare import pipeline, register

    monkeypatch.setattr(pipeline, "LEAST_SHAPE", (64, 72, 56))
    monkeypatch.setattr(register, "SAMPLES", 8_000)  # where the series lie is what other tests ask
    monkeypatch.setattr(register, "LEVELS", register.LEVELS[:1])
    head = make_head_phantom(2, (48, 48, 40), tumour="enhancing")
    affine = np.diag([0.35, 0.35, 0.35, 1.0]) @ head.affine

    def write(without: str = "") -> tuple[np.ndarray, tuple[int, ...], tuple[Any, ...]]:
        (tmp_path / "raw").mkdir()
        for contrast, image in zip(CONTRASTS, head.images, strict=True):
            if contrast != without:
                nib.save(nib.Nifti1Image(image.astype(np.int16), affine), tmp_path / "raw" / f"P1-{contrast}.nii.gz")
        nib.save(nib.Nifti1Image(head.brain.astype(np.uint8), affine), tmp_path / "mask.nii.gz")
        return affine, head.brain.shape, ("--brain-mask", tmp_path / "mask.nii.gz")

    return write


@pytest.mark.slow
def test_a_real_raw_case(rediff: Any, raw_case: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "case"
    done = rediff("prepare", *flags(raw_case), "-o", out, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["warnings"] == []
    assert report["peak_rss_mb"] < 3000
    reference = nib.load(raw_case["brainmask-t1c"])
    from rediffinet.prepare.space import Space, resample

    brain = nib.load(out / report["outputs"]["brain"])
    onto = Space(reference.shape, reference.affine)
    found = resample(np.asarray(brain.dataobj), brain.affine, onto) > 0.5
    wanted = np.asarray(reference.dataobj) > 0
    assert 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum()) >= 0.95
    again = rediff("prepare", out, "-o", tmp_path / "again", "--json")
    assert json.loads(again.out)["passed_through"]


def test_prepare_then_segment_with_the_way_back(rediff: Any, toy_bundle: Any, small_head: Any, tmp_path: Path) -> None:
    """Small series with a mask of their own: no network, no time."""
    affine, shape, mask = small_head()
    raw, case = tmp_path / "raw", tmp_path / "case"
    done = rediff("prepare", raw, "-o", case, *mask)
    assert done.code == 0, done.err
    kinds = (*(f"{contrast}.nii.gz" for contrast in CONTRASTS), "brain.nii.gz", "preparation.png", "preparation.json")
    assert {path.name for path in case.iterdir()} == {f"P1-{kind}" for kind in kinds}
    assert rediff("prepare", raw, "-o", case, *mask).code == 2  # there already
    assert rediff("prepare", raw, "-o", raw, *mask, "--overwrite").code == 2  # never over the raw files
    quick = ("--bundle", toy_bundle.path, "--steps", 1, "--samples", 1, "--no-preview", "--json")
    two_steps = rediff("segment", case, "-o", tmp_path / "two", *quick, "--native", "t1c,t2w", "--save-uncertainty")
    assert two_steps.code == 0, two_steps.err
    report = json.loads(two_steps.out)
    assert set(report["native"]) == {"t1c", "t2w"}
    for kind in ("seg", "baseline", "uncertainty"):
        native = nib.load(tmp_path / "two" / report["outputs"][f"{kind}-t1c"])
        assert native.shape == shape
        assert np.allclose(native.affine, affine, atol=1e-4)
    one_step = rediff("segment", raw, "--prepare", *mask, "-o", tmp_path / "one", *quick)
    assert one_step.code == 0, one_step.err
    assert (tmp_path / "one" / "P1-prepared" / "P1-preparation.json").is_file()
    assert set(json.loads(one_step.out)["native"]) == {"t1c"}
    labels = [np.asarray(nib.load(tmp_path / folder / "P1-seg-t1c-native.nii.gz").dataobj) for folder in ("one", "two")]
    assert np.array_equal(*labels)
    go_on = ("segment", raw, "--prepare", *mask, "-o", tmp_path / "one", "--skip-existing")
    assert "finished before, skipped" in rediff(*go_on, *quick).err
    for written in (tmp_path / "one").glob("P1-*.*"):  # killed when the case was prepared and not segmented
        written.unlink()
    assert rediff(*go_on, *quick).code == 0
    other = rediff(*go_on, *quick, "--seed", 3)
    assert other.code == 0 and "done again: seed 3 instead of 0" in other.err
    shutil.copy(case / "P1-preparation.json", tmp_path / "kept.json")
    values = json.loads((tmp_path / "kept.json").read_text())
    values["space"]["shape"][0] += 1
    (case / "P1-preparation.json").write_text(json.dumps(values))
    assert "another grid" in rediff("segment", case, "-o", tmp_path / "three", *quick).err


def test_a_raw_case_without_t1c_is_registered_to_t1n(
    rediff: Any, make_toy_bundle: Any, small_head: Any, tmp_path: Path
) -> None:
    _, _, mask = small_head(without="t1c")
    raw = tmp_path / "raw"
    regions = {"WT": 0.8, "TC": 0.7, "ET": 0.1}
    scores = {"protocol": "brats2023-gli", "cases": 2, "dice": regions, "hd95": regions}
    given = (*mask, "--allow-missing")
    quick = (*given, "--prepare", "--steps", 1, "--samples", 1, "--no-preview", "--json")
    not_scored = make_toy_bundle()
    done = rediff("segment", raw, *quick, "--bundle", not_scored.path, "-o", tmp_path / "none")
    assert done.code == 2
    assert "was not scored on such cases" in done.err
    assert not (tmp_path / "none").exists()  # refused before the images are prepared
    bundle = make_toy_bundle(metrics={"missing_contrasts": {"t1c": scores}})
    done = rediff("segment", raw, *quick, "--bundle", bundle.path, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["missing_contrasts"] == ["t1c"]
    assert set(report["native"]) == {"t1n"}
    assert rediff("prepare", raw, "-o", tmp_path / "case", *given[:2]).code == 2
    done = rediff("prepare", raw, "-o", tmp_path / "case", *given, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["reference"] == "t1n"
    assert {path.name for path in (tmp_path / "case").glob("P1-t*")} == {
        f"P1-{c}.nii.gz" for c in ("t1n", "t2w", "t2f")
    }
    again = rediff("prepare", tmp_path / "case", "-o", tmp_path / "again", "--allow-missing", "--json")
    assert json.loads(again.out)["passed_through"], again.err


@pytest.mark.parametrize("arguments", [[], ["folder", "--t1n", "a.nii.gz"]])
def test_either_a_folder_or_four_files(rediff: Any, arguments: list[str]) -> None:
    done = rediff("prepare", *arguments)
    assert done.code == 2
    assert "RAW" in done.err or "folder" in done.err


@pytest.mark.parametrize("command", [("prepare",), ("segment", "--prepare")])
def test_names_that_do_not_decide_are_a_table_with_the_flags(
    rediff: Any, toy_bundle: Any, tmp_path: Path, command: tuple[str]
) -> None:
    if command[0] == "segment":
        command = (*command, "--bundle", toy_bundle.path)
    for name in ("T1", "T1_fs", "T1_gd", "T2", "FLAIR"):
        nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.int16), np.eye(4)), tmp_path / f"X_{name}.nii.gz")
    done = rediff(*command, tmp_path, "-o", tmp_path / "out")
    assert done.code == 2
    assert "t1n: X_T1.nii.gz, X_T1_fs.nii.gz" in done.err
    assert "--t1n FILE" in done.err
    done = rediff(*command, tmp_path, "--t1n", "X_T1.nii.gz", "-o", tmp_path / "out")
    assert done.code == 2
    assert "not clear" not in done.err  # what is wrong now are the images
    assert not (tmp_path / "out").exists()


def test_a_brain_mask_without_preparation_is_refused(rediff: Any, toy_bundle: Any, phantoms: Path) -> None:
    case = sorted(phantoms.iterdir())[0]
    done = rediff("segment", case, "--brain-mask", "m.nii.gz", "--bundle", toy_bundle.path)
    assert done.code == 2
    assert "--prepare" in done.err
