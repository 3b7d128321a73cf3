"""Headers, grids, labels and arrays that other programs make: read where they can be, else refused in typed words."""

import io
import os
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import CaseError, LabelError
from rediffinet.io.cases import Case, load_case, load_label_map
from rediffinet.io.checks import RESAMPLING, check_spacing
from rediffinet.io.conventions import Conventions, whole_labels
from rediffinet.io.geometry import GRID_SAME_MM, Grid, corner_distance_mm
from rediffinet.io.nifti import read_nifti
from rediffinet.task import TASKS

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

SHAPE = (20, 22, 18)
BRATS = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def brains(seed: int = 0) -> np.ndarray:
    images = np.zeros((4, *SHAPE), np.int16)
    images[:, 4:15, 5:17, 3:14] = np.random.default_rng(seed).integers(1, 900, (4, 11, 12, 11))
    return images


def save(folder: Path, affines: Any = BRATS, **changed: Any) -> Path:
    """A case; `affines` one for all or one per contrast, `changed` header fields of t1c."""
    affines = [affines] * 4 if isinstance(affines, np.ndarray) else affines
    for contrast, image, affine in zip(CONTRASTS, brains(), affines, strict=True):
        nib.save(nib.Nifti1Image(image, affine), folder / f"X-{contrast}.nii")
    if changed:
        edit(folder / "X-t1c.nii", **changed)
    return folder


def edit(path: Path, **fields: Any) -> None:
    """Change header fields in the file itself: nibabel would not save some of them."""
    content = path.read_bytes()
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(content), check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[len(header.binaryblock) :])


def load_labels(path: Path, grid: Grid | None = None) -> np.ndarray:
    return load_label_map(path, Conventions(TASKS["glioma-2023"]), grid)


def codes(case: Case) -> list[str]:
    return [warning.code for warning in case.warnings]


# --- quaternions ---


def quaternion(norm: float) -> dict[str, float]:
    """Half a turn about the third axis (the BraTS storage), of another length than 1."""
    return {"qform_code": 1, "quatern_b": 0.0, "quatern_c": 0.0, "quatern_d": norm, "qoffset_y": 239}


@pytest.mark.parametrize("norm", [1 + 2e-7, 1 + 9e-7, 1 + 1e-5, 1 + 1e-3, 1.009])
@pytest.mark.parametrize("sform", [0, 1], ids=["alone", "beside an sform"])
def test_a_quaternion_a_little_longer_than_one_is_read(tmp_path: Path, norm: float, sform: int) -> None:
    edit(save(tmp_path) / "X-t1c.nii", sform_code=sform, **quaternion(norm))
    case = load_case(tmp_path)
    assert np.array_equal(case.images, brains())
    np.testing.assert_allclose(read_nifti(tmp_path / "X-t1c.nii").grid.affine, BRATS, atol=1e-4)
    assert codes(case) == []


@pytest.mark.parametrize("norm", [1.02, 2.0, np.nan, np.inf])
def test_a_quaternion_that_is_no_rotation_is_not_used_beside_an_sform(tmp_path: Path, norm: float) -> None:
    case = load_case(save(tmp_path, **quaternion(norm)))
    assert codes(case) == ["qform-unusable"]
    assert np.array_equal(case.affine, BRATS)


def test_a_quaternion_that_is_no_rotation_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"X-t1c\.nii places no voxels in space.*length 2"):
        load_case(save(tmp_path, sform_code=0, **quaternion(2.0)))


# --- scaling ---


@pytest.mark.parametrize("intercept", [np.nan, np.inf, -np.inf])
def test_an_intercept_that_is_no_number_is_read_as_zero_and_said(tmp_path: Path, intercept: float) -> None:
    case = load_case(save(tmp_path, scl_slope=2.0, scl_inter=intercept))
    assert codes(case) == ["scaling-unclear"]
    assert "scl_inter" in case.warnings[0].message
    assert np.array_equal(case.images[1], 2 * brains()[1])


def test_a_slope_that_is_no_number_scales_nothing(tmp_path: Path) -> None:
    assert np.array_equal(load_case(save(tmp_path, scl_slope=np.nan, scl_inter=np.nan)).images, brains())
    case = load_case(save(tmp_path, scl_slope=np.inf))
    assert codes(case) == ["scaling-unclear"] and np.array_equal(case.images, brains())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("slope", [1 / 3, 0.1, 0.0117647, 3 / 255, 3 / 32767])
def test_labels_stored_as_scaled_integers(tmp_path: Path, dtype: type, slope: float) -> None:
    labels = np.resize(np.array([0, 1, 2, 3]), SHAPE)
    stored = np.rint(labels / slope)
    if stored.max() > np.iinfo(dtype).max:
        pytest.skip("does not fit the type")
    image = nib.Nifti1Image(stored.astype(dtype), BRATS)
    nib.save(image, tmp_path / "X-seg.nii")
    edit(tmp_path / "X-seg.nii", scl_slope=slope, scl_inter=0)
    held = np.asarray(nib.load(tmp_path / "X-seg.nii").dataobj)
    assert not np.array_equal(held, labels) or slope == 1 / 3
    if abs(held - labels).max() > 1e-3:
        with pytest.raises(LabelError, match=r"holds the values 0, 0\.9\d+"):
            load_labels(tmp_path / "X-seg.nii")
    else:
        assert np.array_equal(load_labels(tmp_path / "X-seg.nii"), labels)


@pytest.mark.parametrize("error", [9e-4, -9e-4, 1e-7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_labels_a_little_off_whole_numbers_are_rounded(error: float, dtype: Any) -> None:
    labels = np.array([0, 1, 2, 3, 4, 255])
    assert np.array_equal(whole_labels((labels + error).astype(dtype), "X"), labels)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 1.0011), "1.0011"),
        ((0, 2.5), "2.5"),
        ((0, -1), "-1"),
        ((0, 256), "256"),
        ((0, np.nan), "nan"),
        ((0, np.inf), "inf"),
        ((0, 1.5e9), "1.5e\\+09"),
        ((0, 0.99), "0.99"),
    ],
)
def test_values_that_are_no_labels_are_printed_with_enough_digits(values: tuple[float, ...], said: str) -> None:
    with pytest.raises(LabelError, match=rf"X holds the values .*{said}(\D|$)"):
        whole_labels(np.array(values, np.float64), "X")


@pytest.mark.parametrize("dtype", [np.complex64, "U3", object])
def test_labels_of_a_type_that_is_no_number_are_refused(dtype: Any) -> None:
    with pytest.raises(LabelError, match="holds"):
        whole_labels(np.array([0, 1]).astype(dtype), "X")


# --- grids ---


def turned(affine: np.ndarray, decimals: int) -> np.ndarray:
    """An oblique grid whose direction cosines another program rounded."""
    rounded = affine.copy()
    rounded[:3, :3] = affine[:3, :3].round(decimals)
    return rounded


OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, -0.1) @ BRATS[:3, :3], (10, 20, 30))


@pytest.mark.parametrize("decimals", [5, 4, 3])
@pytest.mark.parametrize("changed", [0, 1, 3])
def test_rounded_direction_cosines_are_the_same_grid(tmp_path: Path, decimals: int, changed: int) -> None:
    affines = [OBLIQUE] * 4
    affines[changed] = turned(OBLIQUE, decimals)
    apart = corner_distance_mm(SHAPE, OBLIQUE, affines[changed])  # closed form; all below a tenth of a voxel
    case = load_case(save(tmp_path, affines))
    assert np.array_equal(np.sort(case.images.ravel()), np.sort(brains().ravel()))
    if apart <= GRID_SAME_MM:
        assert codes(case) == []
    else:
        assert codes(case) == ["grids-rounded"]
        assert f"{apart:.2g} mm" in case.warnings[0].message


def shifted(mm: float) -> np.ndarray:
    moved = BRATS.copy()
    moved[1, 3] += mm
    return moved


@pytest.mark.parametrize("mm", [0.02, 0.0999, -0.0999])
def test_grids_less_than_a_tenth_of_a_voxel_apart(tmp_path: Path, mm: float) -> None:
    case = load_case(save(tmp_path, [BRATS, BRATS, shifted(mm), BRATS]))
    assert codes(case) == ["grids-rounded"] and "The grid of t2w differs from that of t1n" in case.warnings[0].message
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), shifted(mm)), tmp_path / "X-seg.nii")
    assert load_labels(tmp_path / "X-seg.nii", case.grid).shape == SHAPE


@pytest.mark.parametrize("mm", [0.101, -0.2, 1.0])
def test_grids_more_than_a_tenth_of_a_voxel_apart_name_the_distance(tmp_path: Path, mm: float) -> None:
    with pytest.raises(CaseError, match=f"different grids, {abs(mm):.3g} mm apart at a corner"):
        load_case(save(tmp_path, [BRATS, BRATS, shifted(mm), BRATS]))
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), shifted(mm)), tmp_path / "X-seg.nii")
    with pytest.raises(LabelError, match=f"{abs(mm):.3g} mm apart"):
        load_labels(tmp_path / "X-seg.nii", Grid(SHAPE, BRATS))


# --- arrays ---


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 0, 5, 5)), "no axis of them empty"),
        (np.zeros((4, 5, 5, 0)), "no axis of them empty"),
        (np.zeros((0, 5, 5, 5)), "Expected images"),
        (np.zeros((3, 5, 5, 5)), "Expected images"),
        (np.zeros((4, 5, 5)), "Expected images"),
        (np.full((4, 3, 3, 3), 10**400, object), "objects, or numbers too large"),
        ([[[[2**70]]]] * 4, "objects, or numbers too large"),
        (np.zeros((4, 3, 3, 3), complex), "complex128"),
        (np.full((4, 3, 3, 3), "a"), "values of <U1"),
        ([[1, 2], [3]], "cannot be made an array"),
        (None, "objects"),
        (np.full((4, 3, 3, 3), 1e300), "beyond float32"),
        (np.full((4, 3, 3, 3), np.nan), "NaN"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_typed_words(images: Any, said: str) -> None:
    with pytest.raises(CaseError, match=re.escape(said)):
        Case.from_arrays("X", images, BRATS)


@pytest.mark.parametrize("affine", [np.eye(3), None, "eye", [[1, 2], [3]], np.full((4, 4), np.nan), np.zeros((4, 4))])
def test_affines_that_are_none_are_refused_in_typed_words(affine: Any) -> None:
    with pytest.raises(CaseError, match="affine"):
        Case.from_arrays("X", brains(), affine)


@pytest.mark.parametrize("name", [None, 7, 1.5, b"X", Path("X"), ("X",), "", ".", "..", "a/b", "a\\b", "a\0b"])
def test_names_that_are_none_are_refused_in_typed_words(name: Any, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="case name"):
        Case.from_arrays(name, brains(), BRATS)
    if name is not None:
        with pytest.raises(CaseError, match="case name"):
            load_case(save(tmp_path), name=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint64, bool])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", [(-1, -1, 1), (1, 1, 1)], ids=["LPS", "RAS"])
def test_the_buffer_of_the_caller_may_be_used_again(dtype: type, order: str, axes: tuple[int, ...]) -> None:
    images = brains() if dtype is not bool else brains() % 3
    buffer, affine = np.array(images, dtype, order=order), np.diag([*axes, 1.0])
    if dtype is bool:
        with pytest.raises(CaseError, match="mask"):
            Case.from_arrays("X", buffer, affine)
        return
    case = Case.from_arrays("X", buffer, affine)
    before, there = case.images.copy(), case.affine.copy()
    assert not np.shares_memory(case.images, buffer)
    buffer[:], affine[:] = 1, 0
    assert np.array_equal(case.images, before) and np.array_equal(case.affine, there)
    assert np.array_equal(case.grid.affine, np.diag([*axes, 1.0]))


# --- advice ---


def test_what_the_error_about_the_spacing_tells_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, the result is accepted, and zeros stay zeros: a cubic spline would ring around the brain."""
    pytest.importorskip("scipy")
    with pytest.raises(CaseError) as raised:
        check_spacing("X", (1, 1, 2), (0.8, 1.25))
    assert RESAMPLING in raised.value.hint
    thick = np.zeros((20, 22, 12), np.float32)
    thick[5:15, 6:16, 3:9] = 100
    nib.save(nib.Nifti1Image(thick, np.diag([-1, -1, 2, 1])), tmp_path / "in.nii.gz")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in RESAMPLING.splitlines()), {})
    out = nib.load("out.nii.gz")
    check_spacing("X", out.header.get_zooms(), (0.8, 1.25))
    data = out.get_fdata()
    assert data.min() == 0 and data.max() == pytest.approx(100)
    assert np.count_nonzero(data) < 2.3 * np.count_nonzero(thick)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "X-t1c.nii").unlink()
    os.mkfifo(tmp_path / "X-t1c.nii")
    with pytest.raises(CaseError, match=r"X-t1c\.nii: it is no regular file"):
        load_case(tmp_path)
