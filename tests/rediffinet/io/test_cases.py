"""What a case holds once loaded, and what it warns of; errors are in test_cases_bad_input.py."""

import gzip
import hashlib
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import LabelError, OutputError
from rediffinet.io.cases import Case, find_cases, find_labels, load_case, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.io.geometry import to_canonical
from rediffinet.io.nifti import read_nifti
from rediffinet.task import TASKS

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
BRATS_2023, BRATS_2021 = TASKS["glioma-2023"], TASKS["glioma-2021"]

SHAPE = (20, 22, 18)
BRATS = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def brains(seed=0):
    """Four contrasts (4, X, Y, Z) with a background of 0."""
    images = np.zeros((4, *SHAPE), np.int16)
    images[:, 4:15, 5:17, 3:14] = np.random.default_rng(seed).integers(1, 900, (4, 11, 12, 11))
    return images


def save(folder, images, affine=BRATS, names=CONTRASTS, dtype=np.int16):
    folder.mkdir(exist_ok=True)
    for name, image in zip(names, images, strict=True):
        nib.save(nib.Nifti1Image(image.astype(dtype), affine), folder / f"X-{name}.nii.gz")
    return folder


def codes(case):
    return [warning.code for warning in case.warnings]


def test_images_are_those_of_the_files_in_the_fixed_order(tmp_path):
    images = brains()
    case = load_case(save(tmp_path / "case", images))
    assert case.images.dtype == np.float32
    assert case.images.flags.c_contiguous
    assert np.array_equal(case.images, images)
    assert np.array_equal(case.affine, BRATS)
    assert (case.name, case.spacing_mm, case.warnings) == ("X", (1, 1, 1), ())


def test_sources_name_the_files_as_they_are_on_disk(tmp_path):
    case = load_case(save(tmp_path / "case", brains()))
    for contrast, source in zip(CONTRASTS, case.sources, strict=True):
        path = tmp_path / "case" / f"X-{contrast}.nii.gz"
        assert source.contrast == contrast
        assert source.path == str(path)
        assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (source.shape, source.spacing_mm) == (SHAPE, (1, 1, 1))


@pytest.mark.parametrize(
    "kind", ["float64", "big-endian", "scaled", "nifti2", "trailing axes", "plain .nii", "two members"]
)
def test_storage_forms_hold_the_same_image(tmp_path, kind):
    images = brains()
    save(tmp_path, images)
    path, image = tmp_path / "X-t2w.nii.gz", images[2]
    if kind == "float64":
        nib.save(nib.Nifti1Image(image.astype(np.float64), BRATS), path)
    elif kind == "big-endian":
        header = nib.Nifti1Header(endianness=">")
        header.set_data_dtype(">i2")
        nib.save(nib.Nifti1Image(image, BRATS, header), path)
    elif kind == "scaled":
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(
            gzip.compress(content[:112] + struct.pack("<2f", 0.25, 3) + content[120:])
        )  # scl_slope, scl_inter
        image = image * 0.25 + 3
    elif kind == "nifti2":
        nib.save(nib.Nifti2Image(image, BRATS), path)
    elif kind == "trailing axes":
        nib.save(nib.Nifti1Image(image[..., None, None], BRATS), path)
    elif kind == "plain .nii":
        nib.save(nib.Nifti1Image(image, BRATS), tmp_path / "X-t2w.nii")
        path.unlink()
    else:
        whole = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(whole[:5000]) + gzip.compress(whole[5000:]))
    assert np.array_equal(load_case(tmp_path).images[2], image)


def test_contrasts_in_another_storage_order_are_brought_together(tmp_path):
    images = brains()
    save(tmp_path, images)
    turned = nib.Nifti1Image(images[3], BRATS).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    assert turned.shape != SHAPE
    nib.save(turned, tmp_path / "X-t2f.nii.gz")
    case = load_case(tmp_path)
    assert np.array_equal(case.images, images)
    assert case.grid.shape == SHAPE


def test_explicit_files_need_no_known_names(tmp_path):
    images = brains()
    save(tmp_path, images, names=("a", "b", "c", "d"))
    files = dict(zip(("t2f", "t2w", "t1c", "t1n"), (tmp_path / f"X-{n}.nii.gz" for n in "dcba"), strict=True))
    case = load_case(files=files, name="mine")
    assert case.name == "mine"
    assert np.array_equal(case.images, images)
    assert load_case(files=files).name == tmp_path.name


@pytest.mark.parametrize("integral", [True, False])
def test_a_saved_case_loads_as_it_was(tmp_path, integral):
    images = brains() if integral else brains() * 0.37
    case = Case.from_arrays("BraTS-GLI-00001-000", images, np.diag([1, -1, 1, 1.0]))
    paths = case.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths.values()] == [
        f"BraTS-GLI-00001-000-{contrast}.nii.gz" for contrast in CONTRASTS
    ]
    again = load_case(tmp_path / "new" / "folder")
    assert np.array_equal(again.images, case.images)
    assert np.array_equal(again.affine, case.affine)
    assert again.name == case.name
    assert np.array_equal(nib.load(paths["t1c"]).get_fdata(dtype=np.float32), images[1].astype(np.float32))


def test_saving_does_not_overwrite_unless_told(tmp_path):
    case = Case.from_arrays("X", brains(), BRATS)
    case.save(tmp_path)
    before = (tmp_path / "X-t1n.nii.gz").read_bytes()
    with pytest.raises(OutputError, match="already holds X-t1n.nii.gz"):
        Case.from_arrays("X", brains(1), BRATS).save(tmp_path)
    assert (tmp_path / "X-t1n.nii.gz").read_bytes() == before
    Case.from_arrays("X", brains(1), BRATS).save(tmp_path, overwrite=True)
    assert np.array_equal(load_case(tmp_path).images, brains(1))


def test_images_with_a_background_warn_that_the_skull_is_there(tmp_path):
    images = brains() + 20
    case = load_case(save(tmp_path, images))
    assert codes(case) == ["not-skull-stripped"]
    assert "100 % of the voxels of t1n" in case.warnings[0].message


def test_one_corner_that_is_not_zero_is_enough_to_warn():
    images = brains()
    images[2, -1, 0, -1] = 3
    case = Case.from_arrays("X", images, BRATS)
    assert codes(case) == ["not-skull-stripped"]
    assert "t2w is not 0 in 1 corners" in case.warnings[0].message


def test_more_volume_than_a_brain_warns():
    images = np.zeros((4, 150, 150, 180), np.float32)
    images[:, 5:145, 5:145, 5:140] = np.random.default_rng(0).uniform(1, 2, (4, 140, 140, 135))
    case = Case.from_arrays("X", images, BRATS)
    assert codes(case) == ["not-skull-stripped"]
    assert "2646 ml" in case.warnings[0].message


def test_a_contrast_that_covers_part_of_the_brain_is_named():
    images = brains()
    images[3, :8] = 0
    case = Case.from_arrays("X", images, BRATS)
    assert codes(case) == ["partial-contrast"]
    assert "t2f covers 64 %" in case.warnings[0].message


def test_z_scored_images_warn_of_negative_intensities():
    images = brains().astype(np.float32)
    images[0][images[0] > 0] -= 400
    assert "negative-intensities" in codes(Case.from_arrays("X", images, BRATS))


def test_sform_and_qform_that_differ_warn_and_the_sform_counts(tmp_path):
    images = brains()
    save(tmp_path, images)
    moved = BRATS.copy()
    moved[0, 3] = 30
    image = nib.Nifti1Image(images[0], BRATS)
    image.set_qform(moved, code=1)
    nib.save(image, tmp_path / "X-t1n.nii.gz")
    case = load_case(tmp_path)
    assert codes(case) == ["sform-qform-differ"]
    assert "30.0 mm" in case.warnings[0].message
    assert np.array_equal(case.affine, BRATS)


def test_headers_without_orientation_warn_once_a_case(tmp_path):
    for contrast, image in zip(CONTRASTS, brains(), strict=True):
        nib.save(nib.Nifti1Image(image, None), tmp_path / f"X-{contrast}.nii.gz")
    case = load_case(tmp_path)
    assert codes(case) == ["orientation-unknown"]
    assert case.warnings[0].message.startswith("t1n, t1c, t2w, t2f say nothing about their orientation")


def test_one_header_without_orientation_is_named(tmp_path):
    unknown = nib.Nifti1Image(brains()[2], None)
    for contrast, image in zip(CONTRASTS, brains(), strict=True):
        known = nib.Nifti1Image(image, unknown.header.get_best_affine())
        nib.save(unknown if contrast == "t2w" else known, tmp_path / f"X-{contrast}.nii.gz")
    case = load_case(tmp_path)
    assert codes(case) == ["orientation-unknown"]
    assert case.warnings[0].message.startswith("t2w says nothing")


def test_the_same_file_twice_warns(tmp_path):
    save(tmp_path, brains())
    (tmp_path / "X-t2f.nii.gz").write_bytes((tmp_path / "X-t2w.nii.gz").read_bytes())
    case = load_case(tmp_path)
    assert codes(case) == ["identical-contrasts"]
    assert "t2w and t2f" in case.warnings[0].message


@pytest.mark.parametrize(
    ("values", "convention"),
    [
        ((0, 1, 2, 3), BRATS_2023),
        ((0, 1, 2, 4), BRATS_2021),
        ((0, 1, 2), BRATS_2023),
        ((0,), BRATS_2023),
        ((0, 4), BRATS_2021),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_label_convention_is_recognised(tmp_path, values, convention, dtype):
    labels = np.random.default_rng(0).choice(values, SHAPE).astype(dtype)
    affine = np.diag([1, 1, 1, 1.0])
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "X-seg.nii.gz")
    conventions = Conventions(BRATS_2023)
    grid = Case.from_arrays("X", brains(), affine).grid
    loaded = load_label_map(tmp_path / "X-seg.nii.gz", conventions, grid)
    assert conventions.decided == convention
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, np.where(labels == 4, 3, labels)[::-1, ::-1])


BRATS_NUMBERS = r"Expected 0 and NCR = 1, ED = 2, ET = 3 .* or 0 and NCR = 1, ED = 2, ET = 4"
WHOLE_NUMBERS = "Expected whole numbers from 0 to 255"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, 2, 3, 4), BRATS_NUMBERS),
        ((0, 255), BRATS_NUMBERS),
        ((0, 0.5), WHOLE_NUMBERS),
        ((0, -1), WHOLE_NUMBERS),
        ((0, np.nan), WHOLE_NUMBERS),
    ],
)
def test_other_label_values_are_refused(tmp_path, values, expected):
    labels = np.resize(np.array(values, np.float32), SHAPE)
    nib.save(nib.Nifti1Image(labels, BRATS), tmp_path / "X-seg.nii.gz")
    with pytest.raises(LabelError, match=expected):
        load_label_map(tmp_path / "X-seg.nii.gz", Conventions(BRATS_2023))


def test_labels_on_another_grid_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)), tmp_path / "X-seg.nii.gz")
    with pytest.raises(LabelError, match="different grids"):
        grid = Case.from_arrays("X", brains(), BRATS).grid
        load_label_map(tmp_path / "X-seg.nii.gz", Conventions(BRATS_2023), grid)


def test_real_cases_load_with_their_labels(real_data: Path):
    for folder in find_cases(real_data)[::10]:
        case = load_case(folder)
        conventions = Conventions(BRATS_2023)
        labels = load_label_map(find_labels(folder), conventions, case.grid)
        assert case.name == folder.name
        assert case.images.shape == (4, 240, 240, 155)
        assert nib.aff2axcodes(case.affine) == ("L", "P", "S")
        assert conventions.decided == BRATS_2023
        assert labels.any()
        assert not set(codes(case)) - {"partial-contrast"}


def test_odd_real_cases_load(real_data: Path):
    odd = real_data.parent / "odd_cases"
    if not odd.is_dir():
        pytest.skip(f"no odd cases: {odd} is not a folder")
    found = {path.name: load_case(path) for path in find_cases(odd)}
    assert not any(case.warnings for case in found.values())
    flipped = found["BraTS-MET-00110-000"]
    stored = nib.load(odd / "BraTS-MET-00110-000" / "BraTS-MET-00110-000-t1c.nii.gz")
    assert nib.aff2axcodes(stored.affine) == ("R", "A", "S")
    assert np.array_equal(flipped.images[1], np.asarray(stored.dataobj)[::-1, ::-1])
    # the same examination under BraTS-2023 names: an independent copy of the images and labels
    twin = real_data / "BraTS2021_01485"
    if twin.is_dir():
        folder = odd / "BraTS2021_01485"
        old, new = Conventions(BRATS_2023), Conventions(BRATS_2023)
        labels = load_label_map(find_labels(folder), old, found["BraTS2021_01485"].grid)
        assert np.array_equal(labels, load_label_map(find_labels(twin), new))
        assert (old.decided, new.decided) == (BRATS_2021, BRATS_2023)


def test_to_canonical_is_a_view(tmp_path):
    save(tmp_path, brains())
    volume = read_nifti(tmp_path / "X-t1n.nii.gz")
    assert np.shares_memory(to_canonical(volume.voxels, volume.grid), volume.voxels)
