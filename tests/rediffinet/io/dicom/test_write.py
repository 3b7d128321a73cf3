"""Segmentations, contours and reports: valid by dciodvfy, read back by dcmqi and pydicom in the same place."""

import io
import json
import shutil
import subprocess
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.errors import ConfigError, OutputError
from rediffinet.io.dicom.files import read_series
from rediffinet.io.dicom.rtstruct import contours, make_rtstruct, write_rtstruct
from rediffinet.io.dicom.volume import Stack, read_volume, stack_frames
from rediffinet.io.dicom.write import Segmented, make_seg, stored, write_sr

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
hd = pytest.importorskip("highdicom", reason="needs the extra [dicom]")

NAMES = {"necrosis": 1, "edema": 2, "enhancing": 3}
LPS = np.diag([-1.0, -1, 1, 1])
ORDERS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def oblique(axes: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (-1, -1, 1)) -> np.ndarray:
    angle = np.radians(19)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, axes] @ np.diag(signs) @ np.diag([0.9, 1.2, 4.4])
    affine[:3, 3] = (31.5, -20.25, 11.0)
    return affine


def labels_in(shape: tuple[int, int, int]) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[2:9, 3:8, 1:5] = 2
    labels[3:7, 4:7, 2:4] = 3
    labels[4:6, 5:6, 2:3] = 1
    return labels


def segmented(stack: Stack, labels: np.ndarray) -> Segmented:
    return Segmented(stack, labels, NAMES, "glioma-test", "0" * 12)


@pytest.fixture
def source(single: Any, tmp_path: Path) -> Stack:
    voxels = np.random.default_rng(0).integers(1, 900, (12, 11, 6))
    single(tmp_path / "in", voxels, oblique())
    return stack_frames(read_series(tmp_path / "in")[0])


def places(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    found = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return found[np.lexsort(np.rint(found * 50).T)]


def seg_places(dataset: Any, label: str) -> np.ndarray:
    """RAS+ places of the voxels of a segment, from the object's own functional groups."""
    number = next(int(one.SegmentNumber) for one in dataset.SegmentSequence if one.SegmentLabel == label)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    spacing = [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing]
    cosines = [float(value) for value in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    labelmap = str(dataset.SegmentationType) == "LABELMAP"
    found = []
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for plane, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if not labelmap and int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) != number:
            continue
        position = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        for row, column in np.argwhere(plane == (number if labelmap else 1)):
            found.append(
                position + np.array(cosines[:3]) * spacing[1] * column + np.array(cosines[3:]) * spacing[0] * row
            )
    world = np.array(found) * (-1, -1, 1)
    return world[np.lexsort(np.rint(world * 50).T)]


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_every_voxel_of_a_segment_lies_where_it_lay(
    single: Any, tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    affine = oblique(axes, signs)
    labels = labels_in((12, 11, 6))
    single(tmp_path, labels.astype(int) * 100 + 7, affine)
    stack = stack_frames(read_series(tmp_path)[0])
    read = np.rint((read_volume(stack).voxels - 7) / 100).astype(np.uint8)
    dataset = pydicom.dcmread(io.BytesIO(stored(make_seg(segmented(stack, read)))))
    for label, value in (("edema", 2), ("enhancing tumour", 3), ("necrosis", 1)):
        found, wanted = seg_places(dataset, label), places(labels == value, affine)
        assert found.shape == wanted.shape
        assert np.linalg.norm(found - wanted, axis=1).max() < 0.01


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("frames", ["single", "enhanced"])
def test_segments_with_codes_colours_references(
    single: Any, enhanced: Any, tmp_path: Path, kind: Any, frames: str
) -> None:
    labels, affine = labels_in((12, 11, 6)), oblique()
    if frames == "single":
        single(tmp_path, labels.astype(int) * 100 + 7, affine)
    else:
        enhanced(tmp_path, labels.astype(int) * 100 + 7, affine, np.array([5, 0, 4, 1, 3, 2]))
    stack = stack_frames(read_series(tmp_path)[0])
    values = read_volume(stack).voxels
    read = np.rint(((values + 5) / 2 - 7) / 100 if frames == "enhanced" else (values - 7) / 100).astype(np.uint8)
    dataset = pydicom.dcmread(io.BytesIO(stored(make_seg(segmented(stack, read), kind))))
    codes = {
        (item.SegmentLabel, item.SegmentedPropertyTypeCodeSequence[0].CodeValue): item
        for item in dataset.SegmentSequence
        if item.SegmentNumber  # 0 is the background of a label map
    }
    wanted = {("necrosis", "6574001"), ("edema", "79654002"), ("enhancing tumour", "C113842")}
    assert set(codes) == wanted | ({("whole tumour", "108369006")} if kind == "BINARY" else set())
    for item in codes.values():
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "glioma-test"
        assert len(item.RecommendedDisplayCIELabValue) == 3
    assert dataset.PatientID == "PHANTOM-1"
    assert dataset.FrameOfReferenceUID == stack.series.headers[0].FrameOfReferenceUID
    referenced = {
        item.ReferencedSOPInstanceUID for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced == {header.SOPInstanceUID for header in stack.series.headers}
    for label, value in (("edema", 2), ("enhancing tumour", 3)):
        assert np.abs(seg_places(dataset, label) - places(labels == value, affine)).max() < 0.01


def dciodvfy(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy here: apt-get install dicom3tools")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_what_is_written_is_valid_by_dicom3tools(source: Stack, tmp_path: Path) -> None:
    labels = labels_in(source.grid.shape)
    result = segmented(source, labels)
    seg = make_seg(result)
    objects = {
        "seg": stored(make_seg(result)),
        "sr": write_sr(result, seg),
        "rtstruct": write_rtstruct(source, {"WT": labels > 0, "ET": labels == 3}, "tumour"),
    }
    for name, content in objects.items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        assert dciodvfy(path) == [], name


UNKNOWN_OBJECT = "Error - Information Object Not found"
SEGMENT_ZERO = (
    "Error - SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 "
    "(from one) with SegmentNumber of 0"
)
"""What a dicom3tools from before Supplement 243 says of a label map: the object is new, and so is segment 0, the
background, which the standard wants there."""


def test_a_label_map_is_valid_as_far_as_dicom3tools_knows_it(source: Stack, tmp_path: Path) -> None:
    path = tmp_path / "labelmap.dcm"
    path.write_bytes(stored(make_seg(segmented(source, labels_in(source.grid.shape)), "LABELMAP")))
    found = dciodvfy(path)
    if UNKNOWN_OBJECT in found:
        assert set(found) == {UNKNOWN_OBJECT, SEGMENT_ZERO}
        pytest.skip("this dciodvfy knows no Label Map Segmentation Storage, and nothing else is wrong by it")
    assert found == []


def test_dcmqi_reads_the_same_segments(source: Stack, tmp_path: Path) -> None:
    pytest.importorskip("dcmqi", reason="needs dcmqi from PyPI")
    import dcmqi
    import nibabel as nib

    labels = labels_in(source.grid.shape)
    (tmp_path / "seg.dcm").write_bytes(stored(make_seg(segmented(source, labels))))
    tool = next(path for path in Path(dcmqi.__file__).parent.rglob("segimage2itkimage*") if path.is_file())
    command = [str(tool), "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path), "-t", "nii"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    meta = json.loads((tmp_path / "meta.json").read_text())
    numbers = {item["SegmentLabel"]: item["labelID"] for group in meta["segmentAttributes"] for item in group}
    for label, value in (("necrosis", 1), ("edema", 2), ("enhancing tumour", 3)):
        image = nib.load(next(tmp_path.glob(f"*{numbers[label]}.nii.gz")))
        found = np.asarray(image.dataobj).squeeze() > 0
        assert np.count_nonzero(found) == np.count_nonzero(labels == value)
        affine = image.affine
        centre = (np.argwhere(found) @ affine[:3, :3].T + affine[:3, 3]).mean(axis=0)
        wanted = places(labels == value, source.grid.affine).mean(axis=0)
        assert np.linalg.norm(centre - wanted) < 0.05


def test_volumes_in_the_report(source: Stack) -> None:
    labels = labels_in(source.grid.shape)
    result = segmented(source, labels)
    report = pydicom.dcmread(io.BytesIO(write_sr(result, make_seg(result))))
    volumes = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in _walk(report.ContentSequence)
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeMeaning == "Volume"
    ]
    voxel = 0.9 * 1.2 * 4.4 / 1000
    wanted = [np.count_nonzero(labels == value) * voxel for value in (1, 2, 3)] + [np.count_nonzero(labels) * voxel]
    assert volumes == pytest.approx(wanted, abs=1e-3)


def _walk(items: Any) -> Any:
    for item in items:
        yield item
        yield from _walk(item.get("ContentSequence") or [])


def test_contours_lie_on_the_boundary_and_hold_the_area(source: Stack) -> None:
    labels = labels_in(source.grid.shape)
    dataset = make_rtstruct(source, {"WT": labels > 0}, "tumour")
    (roi,) = dataset.ROIContourSequence
    assert {contour.ContourGeometricType for contour in roi.ContourSequence} == {"CLOSED_PLANAR"}
    inverse = np.linalg.inv(LPS @ source.grid.affine)
    area = 0.0
    for contour in roi.ContourSequence:
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        index = points @ inverse[:3, :3].T + inverse[:3, 3]
        k = round(index[0, 2])
        assert np.abs(index[:, 2] - k).max() < 1e-3
        assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == (
            source.series.headers[source.frames[k].instance].SOPInstanceUID
        )
        x, y = index[:, 0], index[:, 1]
        area += 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(np.count_nonzero(labels), rel=0.03)


def test_a_hole_is_a_polygon_of_its_own() -> None:
    mask = np.ones((9, 8), bool)
    mask[3:5, 3:6] = False
    assert len(contours(mask)) == 2
    assert not contours(np.zeros((5, 5), bool))


def test_nothing_found_and_labels_without_a_code(source: Stack) -> None:
    empty = np.zeros(source.grid.shape, np.uint8)
    with pytest.raises(OutputError, match="No tumour"):
        stored(make_seg(segmented(source, empty)))
    with pytest.raises(OutputError, match="not on the grid"):
        stored(make_seg(segmented(source, empty[:-1])))
    with pytest.raises(ConfigError, match="no DICOM code"):
        stored(make_seg(Segmented(source, empty + 1, {"cavity": 1}, "m", "v")))
