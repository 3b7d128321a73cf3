"""A label map made in canonical orientation must mark the same points in space on the grid the case came on."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rediffinet.errors import CaseError
from rediffinet.io.cases import Case, load_case, to_input_grid, write_nifti
from rediffinet.io.geometry import Grid, check_affine, corner_distance_mm, to_canonical

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = Rotation.from_euler("xyz", (11, -17, 23), degrees=True).as_matrix()


def affine_of(axes, origin=(12.5, -31.25, 7.0)):
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = origin
    return affine


def marked_points(labels, affine):
    """World coordinates and value of every non-zero voxel, in a fixed order: independent of any storage order."""
    index = np.argwhere(labels)
    world = nib.affines.apply_affine(affine, index)
    rows = np.column_stack([np.round(world, 2) + 0.0, labels[tuple(index.T)]])
    return rows[np.lexsort(rows.T)]


def stored_case(folder, axes, codes, rng, shape=(5, 6, 7)):
    volumes = rng.integers(0, 4, (4, *shape)).astype(np.int16)
    for contrast, volume in zip(CONTRASTS, volumes, strict=True):
        image = nib.Nifti1Image(volume, affine_of(axes))
        image.set_qform(affine_of(axes), code=codes["qform"])
        image.set_sform(affine_of(axes), code=codes["sform"])
        nib.save(image, folder / f"X-{contrast}.nii.gz")
    return volumes


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("number", range(48))
def test_written_labels_mark_the_same_points_on_the_input_grid(number, rotation, tmp_path):
    codes = [{"sform": 1, "qform": 2}, {"sform": 2, "qform": 0}, {"sform": 0, "qform": 1}, {"sform": 4, "qform": 4}][
        number % 4
    ]
    stored = stored_case(tmp_path, rotation @ SIGNED_PERMUTATIONS[number], codes, np.random.default_rng(number))
    case = load_case(tmp_path)
    labels = case.images[1].astype(np.uint8)
    on_input = to_input_grid(labels, case.grid)
    write_nifti(tmp_path / "out.nii.gz", on_input, case.grid, case.source.header, dtype=np.uint8)

    written, source = nib.load(tmp_path / "out.nii.gz"), nib.load(tmp_path / "X-t1n.nii.gz")
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    for field in ("sform_code", "qform_code", "xyzt_units", "srow_x", "quatern_b", "quatern_d", "qoffset_x", "pixdim"):
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(np.asarray(written.dataobj), stored[1])
    assert np.array_equal(marked_points(labels, case.affine), marked_points(np.asarray(written.dataobj), source.affine))


@pytest.mark.parametrize("axes", SIGNED_PERMUTATIONS)
def test_canonical_is_lps_whatever_the_storage(axes):
    grid = Grid((5, 6, 7), affine_of(axes))
    assert nib.aff2axcodes(grid.canonical_affine) == ("L", "P", "S")
    assert grid.canonical_shape == to_canonical(np.empty(grid.shape), grid).shape


@given(
    rotation=st.tuples(*[st.floats(-180, 180)] * 3),
    number=st.integers(0, 47),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
)
@settings(max_examples=150, deadline=None)
def test_there_and_back_for_any_rotation(rotation, number, shape, spacing):
    axes = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ SIGNED_PERMUTATIONS[number]
    grid = Grid(shape, affine_of(axes * spacing))
    stored = np.arange(1, 2 * np.prod(shape) + 1).reshape(2, *shape)
    canonical = to_canonical(stored, grid)
    assert np.array_equal(to_input_grid(canonical, grid), stored)
    there, here = marked_points(canonical[0], grid.canonical_affine), marked_points(stored[0], grid.affine)
    there, here = there[np.argsort(there[:, 3])], here[np.argsort(here[:, 3])]
    np.testing.assert_allclose(there, here, atol=0.02)


def test_arrays_in_memory_get_the_same_canonical_images_as_files(tmp_path: Path):
    axes = OBLIQUE @ SIGNED_PERMUTATIONS[13]
    stored = stored_case(tmp_path, axes, {"sform": 1, "qform": 1}, np.random.default_rng(0))
    loaded, built = load_case(tmp_path), Case.from_arrays("X", stored, affine_of(axes))
    assert np.array_equal(loaded.images, built.images)
    np.testing.assert_allclose(loaded.affine, built.affine, atol=1e-5)
    assert built.images.dtype == np.float32
    assert built.images.flags.c_contiguous


def test_a_sheared_affine_survives_saving_without_a_qform(tmp_path):
    axes = np.array([[-1, 0.1, 0], [0, -1, 0.05], [0, 0, 1]])
    images = np.random.default_rng(0).integers(0, 9, (4, 5, 6, 7))
    Case.from_arrays("X", images, affine_of(axes)).save(tmp_path)
    written = nib.load(tmp_path / "X-t2f.nii.gz")
    np.testing.assert_allclose(written.affine, affine_of(axes), atol=1e-6)
    assert (written.header["sform_code"], written.header["qform_code"]) == (1, 0)


def test_corner_distance_is_that_of_the_farthest_corner():
    turned = affine_of(Rotation.from_euler("z", 1, degrees=True).as_matrix(), (0, 0, 0))
    chord = 2 * np.sin(np.deg2rad(0.5)) * np.hypot(100, 100)
    assert corner_distance_mm((101, 101, 5), affine_of(np.eye(3), (0, 0, 0)), turned) == pytest.approx(chord)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.diag([1, 1, np.nan, 1.0]), np.diag([1, 1, 1, 2.0])])
def test_an_affine_that_places_nothing_is_refused(bad):
    with pytest.raises(CaseError, match=r"affine of case X"):
        check_affine(bad, "case X")
