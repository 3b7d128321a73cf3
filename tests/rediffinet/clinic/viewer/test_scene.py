"""Which files of the disk a page gets to see."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from rediffinet.clinic.viewer.scene import open_scene
from rediffinet.errors import CaseError, ChangedError, LabelError


@pytest.mark.parametrize("target", [".", "toy", "toy-report.json"])
def test_a_case_by_folder_by_name_and_by_report(segmented: Any, target: str) -> None:
    scene = open_scene(segmented.out / target)
    assert scene.case == "toy"
    assert list(scene.images) == ["t1n", "t1c", "t2w", "t2f"]
    assert set(scene.maps) == {"refined", "baseline", "uncertainty", "reference"}
    assert scene.notes == ()


def test_every_address_of_the_scene_is_a_file_that_is_served(segmented: Any) -> None:
    scene = open_scene(segmented.out)
    told = scene.to_dict()
    addresses = [image["url"] for image in told["images"]] + list(told["maps"].values())
    assert len(addresses) == 8
    for address in addresses:
        assert scene.files()[address.removeprefix("files/").partition("?")[0]].is_file()
    json.dumps(told)


def test_a_case_that_is_segmented_again_while_it_is_opened(
    segmented: Any, segment_again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rediffinet.clinic.viewer import scene

    find = scene._find_reference

    def meanwhile(*where: Any) -> Any:
        segment_again(segmented)
        return find(*where)

    monkeypatch.setattr(scene, "_find_reference", meanwhile)
    with pytest.raises(ChangedError, match="segmented again while it was opened"):
        open_scene(segmented.out)


def test_reference_and_result_of_one_name_are_both_served(segmented: Any) -> None:
    """BraTS names its reference as we name our result."""
    files = open_scene(segmented.out).files()
    assert files["reference.nii.gz"] == segmented.images / "toy-seg.nii.gz"
    assert files["toy-seg.nii.gz"] == segmented.out / "toy-seg.nii.gz"


def test_results_beside_the_images_are_not_their_own_reference(segmented: Any) -> None:
    (segmented.images / "toy-seg.nii.gz").unlink()
    for path in segmented.out.iterdir():
        shutil.copy(path, segmented.images)
    assert "reference" not in open_scene(segmented.images).maps


def test_an_image_that_was_replaced_is_not_shown(segmented: Any) -> None:
    shutil.copy(segmented.images / "toy-t2f.nii.gz", segmented.images / "toy-t1n.nii.gz")
    scene = open_scene(segmented.out)
    assert list(scene.images) == ["t1c", "t2w", "t2f"]
    assert "not the image that was segmented" in scene.notes[0]


def test_a_series_of_files_is_said_not_to_be_shown(segmented: Any) -> None:
    (segmented.images / "toy-t2f.nii.gz").unlink()
    (segmented.images / "toy-t2f.nii.gz").mkdir()
    scene = open_scene(segmented.out)
    assert "t2f" not in scene.images
    assert "is a series of files" in scene.notes[0]


def test_images_that_moved_are_found_where_they_are_said_to_be(segmented: Any) -> None:
    moved = segmented.images.rename(segmented.images.with_name("moved"))
    with pytest.raises(CaseError, match=r"(?s)None of the images of case toy.*`images`"):
        open_scene(segmented.out)
    assert len(open_scene(segmented.out, images=moved).images) == 4


@pytest.mark.parametrize("written", [True, False])
def test_a_margin_is_a_map_or_is_said_not_to_be_written(make_segmented: Any, written: bool) -> None:
    scene = open_scene(make_segmented(margin=written).out)
    assert ("margin" in scene.maps) == written
    assert any("--save-margin" in note for note in scene.notes) != written


def test_no_uncertainty_is_said(make_segmented: Any) -> None:
    scene = open_scene(make_segmented(uncertainty=False).out)
    assert "uncertainty" not in scene.maps
    assert "--save-uncertainty" in scene.notes[0]


def test_a_reference_of_another_grid(segmented: Any) -> None:
    path = segmented.images / "toy-seg.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4)), path)
    scene = open_scene(segmented.out)
    assert "reference" not in scene.maps
    assert "not on the grid" in scene.notes[0]
    with pytest.raises(LabelError, match="5 × 6 × 7"):
        open_scene(segmented.out, reference=path)


def test_an_image_is_no_reference(segmented: Any) -> None:
    path = segmented.images / "toy-t1n.nii.gz"
    with pytest.raises(LabelError, match="no label map"):
        open_scene(segmented.out, reference=path)


def test_the_current_folder_by_itself(segmented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(segmented.out)
    assert open_scene(Path()).case == "toy"
    assert open_scene(Path("toy")).case == "toy"
    with pytest.raises(CaseError, match="No result in /"):
        open_scene(Path("/"))


def test_two_cases_in_a_folder_are_listed(segmented: Any) -> None:
    shutil.copy(segmented.output("report.json"), segmented.out / "other-report.json")
    with pytest.raises(CaseError, match=r"2 cases. Name one: .*other, .*toy"):
        open_scene(segmented.out)
    assert open_scene(segmented.out / "toy").case == "toy"


def test_a_folder_without_a_result(segmented: Any) -> None:
    with pytest.raises(CaseError, match="No result in"):
        open_scene(segmented.images)


def test_a_result_of_which_a_map_is_gone(segmented: Any) -> None:
    segmented.output("baseline.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"toy-baseline.nii.gz, which is not beside it"):
        open_scene(segmented.out)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": "other/1", "case": "x", "outputs": {}}', "\ufeff7"])
def test_what_is_no_report(segmented: Any, content: str) -> None:
    segmented.output("report.json").write_text(content)
    with pytest.raises(CaseError, match=r"toy-report.json (is not the report|has schema other/1)"):
        open_scene(segmented.out)


@pytest.mark.parametrize("name", ["../secret.nii.gz", "/etc/passwd", "..", "a\\b.nii.gz"])
def test_a_report_cannot_reach_out_of_its_folder(segmented: Any, name: str) -> None:
    path = segmented.output("report.json")
    report = json.loads(path.read_text())
    report["outputs"]["preview"] = name
    path.write_text(json.dumps(report))
    with pytest.raises(CaseError, match="outside its own folder"):
        open_scene(segmented.out)


@pytest.mark.parametrize("ending", ["seg.nii.gz", "baseline.nii.gz", "uncertainty.nii.gz"])
@pytest.mark.parametrize("kept", [0, 100])
@pytest.mark.parametrize("told", [True, False])
def test_a_map_that_is_empty_or_cut_off(segmented: Any, ending: str, kept: int, told: bool) -> None:
    """told: whether the report has the sizes, which those of earlier versions have not."""
    path = segmented.output(ending)
    path.write_bytes(path.read_bytes()[:kept])
    if not told:
        report = json.loads(segmented.output("report.json").read_text())
        del report["output_bytes"]
        segmented.output("report.json").write_text(json.dumps(report))
    with pytest.raises(CaseError, match=f"toy-{ending}.* cannot be read"):
        open_scene(segmented.out)


def test_a_map_that_another_program_saved_over_is_told(segmented: Any) -> None:
    assert open_scene(segmented.out).altered == ()
    path = segmented.output("baseline.nii.gz")
    stored = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros_like(stored.dataobj), stored.affine, stored.header), path)
    assert open_scene(segmented.out).altered == ("baseline",)
    assert open_scene(segmented.out).to_dict()["altered"] == ["baseline"]


def test_reports_of_earlier_versions_tell_no_hashes(segmented: Any) -> None:
    path = segmented.output("report.json")
    report = json.loads(path.read_text())
    del report["output_sha256"]
    path.write_text(json.dumps(report))
    assert open_scene(segmented.out).altered == ()


@pytest.mark.parametrize("key", ["output_bytes", "output_sha256"])
def test_a_report_whose_hashes_are_none(segmented: Any, key: str) -> None:
    path = segmented.output("report.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 3}))
    with pytest.raises(CaseError, match="is not the report of a case"):
        open_scene(segmented.out)


def test_a_map_that_is_of_its_size_and_nothing_else(segmented: Any) -> None:
    path = segmented.output("seg.nii.gz")
    path.write_bytes(bytes(path.stat().st_size))  # what a loss of power may leave
    with pytest.raises(CaseError, match="cannot be read"):
        open_scene(segmented.out)


@pytest.mark.parametrize("inputs", [None, [{}], [{"contrast": "t1n", "path": 3, "sha256": ""}], "x"])
def test_a_report_that_does_not_tell_its_images(segmented: Any, inputs: Any) -> None:
    report = json.loads(segmented.output("report.json").read_text())
    segmented.output("report.json").write_text(json.dumps({**report, "inputs": inputs}))
    with pytest.raises(CaseError, match="not the report of a case"):
        open_scene(segmented.out)


def test_relative_paths_begin_above_the_report_and_not_in_the_current_folder(
    segmented: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads(segmented.output("report.json").read_text())
    for entry in report["inputs"]:
        entry["path"] = f"images/{entry['path'].rpartition('/')[2]}"
    segmented.output("report.json").write_text(json.dumps(report))
    other = tmp_path / "elsewhere"
    shutil.copytree(segmented.images, other / "images")
    for path in (other / "images").glob("*.nii.gz"):
        path.write_bytes(b"of another study")
    monkeypatch.chdir(other)
    scene = open_scene(segmented.out)
    assert [path.parent for path in scene.images.values()] == [segmented.images.resolve()] * 4
    results = segmented.out.rename(tmp_path / "far")
    shutil.move(segmented.images, tmp_path / "near")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near").rename(tmp_path / "images")
    assert len(open_scene(results).images) == 4
