"""What is written, on which grid, and that it is written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rediffinet.errors import OutputError
from rediffinet.io.cases import load_case
from rediffinet.io.outputs import OutputChoice, check_output, save_result
from rediffinet.report import Report
from rediffinet.segmenter import Result, Segmenter

ALL = OutputChoice(uncertainty=True, probabilities=True)
NAMES = {"seg.nii.gz", "baseline.nii.gz", "uncertainty.nii.gz", "probabilities.nii.gz", "preview.png", "report.json"}


@pytest.fixture
def result(toy_bundle: Any, toy_case: Any) -> Result:
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        return segmenter.segment(toy_case)


def written(folder: Path) -> set[str]:
    return {path.name.removeprefix("toy-") for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, NAMES - {"uncertainty.nii.gz", "probabilities.nii.gz"}),
        (OutputChoice(preview=False), {"seg.nii.gz", "baseline.nii.gz", "report.json"}),
        (ALL, NAMES),
    ],
)
def test_the_chosen_files_and_no_others(result: Result, tmp_path: Path, choice: Any, names: set[str]) -> None:
    paths = save_result(result, tmp_path / "deep" / "out", choice).paths
    assert written(tmp_path / "deep" / "out") == names
    assert {path.name for path in paths.values()} == {f"toy-{name}" for name in names}
    assert all(path.is_file() for path in paths.values())


def test_without_a_baseline_none_is_written_and_an_old_one_goes(
    make_toy_bundle: Any, toy_case: Any, result: Result, tmp_path: Path
) -> None:
    save_result(result, tmp_path)
    with Segmenter.open(make_toy_bundle(model="diff-unet").path, threads=1) as segmenter:
        paths = save_result(segmenter.segment(toy_case), tmp_path, OutputChoice(overwrite=True)).paths
    assert written(tmp_path) == {"seg.nii.gz", "preview.png", "report.json"}
    assert "baseline" not in paths
    report = json.loads(paths["report"].read_text())
    assert "baseline" not in report["outputs"]
    assert report["volumes_ml"]["baseline"] is report["flipped_voxels"] is None


def test_maps_lie_on_the_grid_of_the_input(tmp_path: Path, toy_bundle: Any, make_toy_images: Any) -> None:
    """Another storage order, an oblique affine and unequal codes: shape, affine, codes and units come back."""
    turn = np.eye(4)
    turn[:3, :3] = nib.eulerangles.euler2mat(0.1, 0.2, -0.1) @ [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    turn[:3, 3] = (3, -4, 5)
    for contrast, image in zip(("t1n", "t1c", "t2w", "t2f"), make_toy_images(), strict=True):
        stored = nib.Nifti1Image(image.transpose(1, 0, 2), turn)
        stored.set_sform(turn, code="mni")
        stored.set_qform(turn, code="scanner")
        stored.header.set_xyzt_units("mm")
        stored.header["descrip"] = b"Jane Doe"
        nib.save(stored, tmp_path / f"toy-{contrast}.nii.gz")
    case = load_case(tmp_path)
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        result = segmenter.segment(case)
    paths = save_result(result, tmp_path / "out", ALL).paths
    source = nib.load(tmp_path / "toy-t1n.nii.gz")
    arrays = {
        "segmentation": (result.labels, np.uint8),
        "baseline": (result.baseline_labels, np.uint8),
        "uncertainty": (result.uncertainty, np.float32),
        "probabilities": (np.moveaxis(result.probabilities, 0, -1), np.float32),
    }
    for kind, (array, dtype) in arrays.items():
        image = nib.load(paths[kind])
        assert image.get_data_dtype() == dtype
        assert np.array_equal(np.asarray(image.dataobj), array)
        assert image.shape[:3] == source.shape
        assert np.array_equal(image.affine, source.affine)
        for code in ("sform_code", "qform_code"):
            assert image.header[code] == source.header[code]
        assert image.header.get_xyzt_units()[0] == "mm"
        assert b"Jane" not in image.header.binaryblock
    assert result.labels.any()


def test_the_margin_is_a_bit_a_region_on_the_grid_of_the_input(
    make_toy_bundle: Any, toy_case: Any, tmp_path: Path
) -> None:
    made = make_toy_bundle(margin={"scale_mm": [30.0, 20.0, 10.0]})
    with Segmenter.open(made.path, threads=1) as segmenter:
        result = segmenter.segment(toy_case)
    paths = save_result(result, tmp_path / "out", OutputChoice(margin=True)).paths
    image = nib.load(paths["margin"])
    bits = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.uint8 and bits.shape == result.labels.shape
    assert bytes(image.header["descrip"]).rstrip(b"\0").decode() == "1 WT, 2 TC, 4 ET"
    for bit, labels in enumerate(((1, 2, 3), (1, 3), (3,))):
        region = np.isin(result.labels, labels)
        surface = region & ~ndimage.binary_erosion(region)
        assert surface.any() and (bits >> bit & 1)[surface].all(), "the boundary itself is in its band"
    widths = json.loads(paths["report"].read_text())["margin"]
    assert widths["share"] == 0.9
    assert widths["median_mm"]["WT"] > widths["median_mm"]["ET"] >= 0.5


def test_a_margin_that_was_never_fitted_is_not_written(result: Result, tmp_path: Path) -> None:
    assert result.margin is None and result.report.margin is None
    with pytest.raises(OutputError, match="has no margin in mm.*calibrate"):
        save_result(result, tmp_path / "out", OutputChoice(margin=True))
    assert not (tmp_path / "out").exists()


def test_label_maps_name_their_values(result: Result, tmp_path: Path) -> None:
    paths = result.save(tmp_path)
    header = nib.load(paths["segmentation"]).header
    assert header.get_intent()[0] == "label"
    assert bytes(header["descrip"]).rstrip(b"\0").decode() == "2 edema, 1 necrosis, 3 enhancing"


def test_equal_results_give_equal_files(result: Result, tmp_path: Path) -> None:
    one, other = (save_result(result, tmp_path / name, ALL).paths for name in ("one", "other"))
    for kind in one.keys() - {"report"}:
        assert one[kind].read_bytes() == other[kind].read_bytes()


def test_saving_twice_does_not_count_the_writing_twice(result: Result, tmp_path: Path) -> None:
    before_writing = result.report.seconds.total
    for name in ("one", "other"):
        save_result(result, tmp_path / name)
        seconds = json.loads((tmp_path / name / "toy-report.json").read_text())["seconds"]
        assert seconds["total"] - seconds["write"] == pytest.approx(before_writing)


# --- existing files ---


def test_existing_outputs_are_kept_unless_told(result: Result, tmp_path: Path) -> None:
    save_result(result, tmp_path, ALL)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=r"toy-uncertainty\.nii\.gz.*`overwrite=True`"):
        save_result(result, tmp_path, OutputChoice())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_leaves_nothing_of_the_earlier_run(result: Result, tmp_path: Path) -> None:
    save_result(result, tmp_path, ALL)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "toy-seg.nii.gz").write_bytes(b"old")
    save_result(result, tmp_path, OutputChoice(preview=False, overwrite=True))
    assert written(tmp_path) == {"seg.nii.gz", "baseline.nii.gz", "report.json", "notes.txt"}
    assert np.array_equal(np.asarray(nib.load(tmp_path / "toy-seg.nii.gz").dataobj), result.labels)


def test_a_reference_segmentation_is_never_replaced(result: Result, tmp_path: Path) -> None:
    """BraTS names its reference X-seg.nii.gz too, and the default output folder may be the case's own."""
    (tmp_path / "toy-seg.nii.gz").write_bytes(b"reference")
    with pytest.raises(OutputError, match="may be a reference"):
        save_result(result, tmp_path, OutputChoice(overwrite=True))
    assert (tmp_path / "toy-seg.nii.gz").read_bytes() == b"reference"
    assert written(tmp_path) == {"seg.nii.gz"}


# --- failures ---


def fail_on(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, call: int) -> None:
    """Let the given call of a function fail as on a full disk."""
    original = getattr(target, name)
    count = 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise OSError(28, "No space left on device")
        return original(*arguments, **options)

    monkeypatch.setattr(target, name, failing)


@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        *((Path, "write_bytes", call) for call in (1, 4, 6)),
        (Image.Image, "save", 1),
        (Report, "to_json", 1),
        ("rediffinet.files.tempfile", "mkdtemp", 1),
        *((Path, "replace", call) for call in (1, 5, 6)),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_write_leaves_nothing(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, call: int, exists: bool
) -> None:
    import importlib

    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
        (out / "notes.txt").write_text("mine")
    if isinstance(target, str):
        try:
            target = importlib.import_module(target)
        except ModuleNotFoundError:
            module, _, attribute = target.rpartition(".")
            target = getattr(importlib.import_module(module), attribute)
    fail_on(monkeypatch, target, name, call)
    with pytest.raises(OutputError, match="No space left on device"):
        save_result(result, out, ALL)
    monkeypatch.undo()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == (["deep", "deep/out", "deep/out/notes.txt"] if exists else [])
    save_result(result, out, ALL)  # and a second try works


def test_a_bug_while_writing_leaves_nothing_either(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Result) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rediffinet.io.preview.render_preview", broken)
    with pytest.raises(ZeroDivisionError):
        save_result(result, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", [".", "deeper", "deeper/still"])
def test_a_file_where_the_folder_should_be(result: Result, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        save_result(result, tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_that_may_not_be_written(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(OutputError, match="closed"):
        check_output(folder / "out", "toy", OutputChoice())
    folder.chmod(0o700)
