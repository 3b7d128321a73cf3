"""Series to volumes: 48 storage orders, oblique and anisotropic, by world coordinates; what must be refused."""

import shutil
import zipfile
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.errors import CaseError
from rediffinet.io.dicom.files import is_dicom, read_series
from rediffinet.io.dicom.volume import read_volume, stack_frames

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")

SHAPE = (9, 7, 5)
ORDERS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def affine_of(axes: tuple[int, ...], signs: tuple[int, ...], degrees: float = 0.0) -> np.ndarray:
    """Axes permuted and flipped, then turned about a skew axis; anisotropic; always right-handed or left-handed."""
    turn = np.radians(degrees)
    skew = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
    cross = np.array([[0, -skew[2], skew[1]], [skew[2], 0, -skew[0]], [-skew[1], skew[0], 0]])
    rotation = np.eye(3) + np.sin(turn) * cross + (1 - np.cos(turn)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.eye(3)[:, axes] @ np.diag(signs) @ np.diag([0.9, 1.1, 4.7])
    affine[:3, 3] = (12.5, -33.25, 7.75)
    return affine


def world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def by_place(voxels: np.ndarray, affine: np.ndarray) -> dict[tuple[int, ...], float]:
    """Value at each place, to a hundredth of a millimetre."""
    places = np.rint(world(voxels.shape, affine).reshape(-1, 3) * 50).astype(int)
    return {tuple(place): value for place, value in zip(places.tolist(), voxels.ravel().tolist(), strict=True)}


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
@pytest.mark.parametrize("degrees", [0.0, 23.0])
def test_every_voxel_is_where_it_was(
    single: Any, tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...], degrees: float
) -> None:
    voxels = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    affine = affine_of(axes, signs, degrees)
    single(tmp_path, voxels, affine)
    (series,) = read_series(tmp_path)
    found = read_volume(stack_frames(series))
    order = np.argsort(found.voxels, axis=None)
    read = world(found.grid.shape, found.grid.affine).reshape(-1, 3)[order]
    assert np.array_equal(np.sort(found.voxels, axis=None), voxels.ravel())
    error = np.linalg.norm(read - world(SHAPE, affine).reshape(-1, 3), axis=1)
    assert error.max() < 0.1 * 0.9 / 100  # a hundredth of the tenth of a voxel that is asked for


def test_enhanced_frames_in_any_order_with_rescaling(enhanced: Any, tmp_path: Path) -> None:
    voxels = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    affine = affine_of((1, 2, 0), (-1, 1, -1), 17.0)
    enhanced(tmp_path, voxels, affine, np.array([3, 0, 4, 1, 2]))
    (series,) = read_series(tmp_path)
    found = read_volume(stack_frames(series))
    order = np.argsort(found.voxels, axis=None)
    assert np.array_equal(np.sort(found.voxels, axis=None), 2.0 * voxels.ravel() - 5)
    read = world(found.grid.shape, found.grid.affine).reshape(-1, 3)[order]
    assert np.abs(read - world(SHAPE, affine).reshape(-1, 3)).max() < 1e-3


def test_a_zip_and_a_dicomdir_give_what_the_folder_gives(single: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, SHAPE)
    paths = single(tmp_path / "in", voxels, affine_of((0, 1, 2), (-1, -1, 1)))
    with zipfile.ZipFile(tmp_path / "case.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"deep/{path.name}")
    fileset = pytest.importorskip("pydicom.fileset").FileSet()
    for path in paths:
        fileset.add(path)
    fileset.write(tmp_path / "media")
    folder = read_volume(stack_frames(read_series(tmp_path / "in")[0]))
    for other in (tmp_path / "case.zip", tmp_path / "media" / "DICOMDIR", tmp_path / "media"):
        assert is_dicom(other)
        found = read_volume(stack_frames(read_series(other)[0]))
        assert np.array_equal(found.voxels, folder.voxels)
        assert found.sha256 == folder.sha256
    assert "Nobody" not in str(folder.path)


PLAIN = affine_of((0, 1, 2), (-1, -1, 1))


def refused(folder: Path) -> str:
    with pytest.raises(CaseError) as caught:
        for series in read_series(folder):
            read_volume(stack_frames(series))
    return str(caught.value)


def test_missing_slices(single: Any, tmp_path: Path) -> None:
    paths = single(tmp_path, np.ones((8, 8, 9)), PLAIN)
    paths[3].unlink()
    assert "1 after slice 3" in refused(tmp_path)


def test_every_second_slice_missing_is_told_by_the_tag(single: Any, tmp_path: Path) -> None:
    paths = single(tmp_path, np.ones((8, 8, 9)), PLAIN)
    for path in paths[1::2]:
        path.unlink()
    assert "SpacingBetweenSlices" in refused(tmp_path)


def test_duplicate_slices(single: Any, tmp_path: Path) -> None:
    single(tmp_path, np.ones((8, 8, 5)), PLAIN, SeriesInstanceUID="1.2.3")
    single(tmp_path / "again", np.ones((8, 8, 5)), PLAIN, SeriesInstanceUID="1.2.3")
    assert "duplicates" in refused(tmp_path)


def test_two_patients(single: Any, tmp_path: Path) -> None:
    single(tmp_path / "a", np.ones((8, 8, 5)), PLAIN)
    single(tmp_path / "b", np.ones((8, 8, 5)), PLAIN, PatientID="OTHER")
    message = refused(tmp_path)
    assert "2 patients" in message
    assert "OTHER" not in message


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"FrameOfReferenceUID": lambda k: f"1.2.{k % 2}"}, "frame of reference"),
        ({"ImageOrientationPatient": lambda k: [1, 0, 0, 0, 1, 0] if k else [0, 1, 0, 0, 0, -1]}, "orientation"),
        ({"PixelSpacing": [0, 0]}, "said to be 0"),
        ({"PixelSpacing": lambda k: [1, 1 + k]}, "differ in pixel spacing"),
        ({"SpacingBetweenSlices": 9.4}, "SpacingBetweenSlices"),
        ({"ImagePositionPatient": lambda k: [0, 3 * k, 5 * k]}, "tilted gantry"),
        ({"ImagePositionPatient": lambda k: [0, 0, 5 * k + (1.5 if k == 2 else 0)]}, "unevenly"),
        ({"ImagePositionPatient": lambda k: None}, "no position"),
    ],
)
def test_series_that_cannot_be_stacked(single: Any, tmp_path: Path, tags: dict[str, Any], said: str) -> None:
    single(tmp_path, np.ones((8, 8, 5)), PLAIN, **tags)
    assert said in refused(tmp_path)


def test_colour_and_lone_slices(single: Any, tmp_path: Path) -> None:
    single(tmp_path / "one", np.ones((8, 8, 1)), PLAIN)
    assert "one slice" in refused(tmp_path / "one")
    single(tmp_path / "colour", np.ones((8, 8, 4)), PLAIN, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    assert "colour" in refused(tmp_path / "colour")


def test_pixels_that_cannot_be_decoded(single: Any, tmp_path: Path) -> None:
    for path in single(tmp_path, np.ones((8, 8, 4)), PLAIN):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f" + bytes(62)])
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
    message = refused(tmp_path)
    assert "JPEG 2000" in message
    assert "pip install" in message


def test_a_damaged_file_is_not_taken_for_a_missing_decoder(single: Any, tmp_path: Path) -> None:
    path = single(tmp_path, np.ones((8, 8, 4)), PLAIN)[1]
    path.write_bytes(path.read_bytes()[:-30])
    message = refused(tmp_path)
    assert "damaged" in message
    assert "pip install" not in message


def test_no_dicom_and_no_mr(single: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert not is_dicom(tmp_path / "empty")
    assert "no DICOM" in refused(tmp_path / "empty")
    single(tmp_path / "ct", np.ones((8, 8, 4)), PLAIN, Modality="CT")
    assert "4 of modality CT" in refused(tmp_path / "ct")
    shutil.copy(__file__, tmp_path / "ct" / "notes.txt")
    assert "4 of modality CT" in refused(tmp_path / "ct")
