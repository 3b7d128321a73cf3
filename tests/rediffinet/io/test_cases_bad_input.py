"""Each bad input gives a CaseError that says what was found, what was expected and what to do."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import CaseError
from rediffinet.io.cases import Case, load_case

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

SHAPE = (12, 13, 14)
AFFINE = np.diag([-1, -1, 1, 1.0])


def brain(seed=0, shape=SHAPE):
    image = np.zeros(shape, np.float32)
    image[2:-2, 2:-2, 2:-2] = np.random.default_rng(seed).uniform(1, 100, [size - 4 for size in shape])
    return image


@pytest.fixture
def folder(tmp_path):
    for number, contrast in enumerate(CONTRASTS):
        nib.save(nib.Nifti1Image(brain(number), AFFINE), tmp_path / f"X-{contrast}.nii.gz")
    return tmp_path


def replace(folder, contrast, image, affine=AFFINE):
    nib.save(nib.Nifti1Image(image, affine), folder / f"X-{contrast}.nii.gz")


def message_of(call, *args, **kwargs):
    with pytest.raises(CaseError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_missing_contrast(folder):
    (folder / "X-t2w.nii.gz").unlink()
    assert "missing: t2w" in message_of(load_case, folder)


def test_two_files_for_one_contrast(folder):
    nib.save(nib.Nifti1Image(brain(), AFFINE), folder / "X_flair.nii.gz")
    assert "more than one file: t2f" in message_of(load_case, folder)


def test_other_shape(folder):
    replace(folder, "t2w", brain(shape=(12, 13, 15)))
    message = message_of(load_case, folder)
    assert all(text in message for text in ("t1n", "t2w", "12 × 13 × 14", "12 × 13 × 15", "resample"))


def test_other_affine(folder):
    moved = AFFINE.copy()
    moved[:3, 3] = (0, 0, 0.5)
    replace(folder, "t2f", brain(), moved)
    message = message_of(load_case, folder)
    assert all(text in message for text in ("contrast t1n", "contrast t2f", "0.5000"))


def test_affines_equal_to_rounding_are_one_grid(folder):
    replace(folder, "t2f", brain(9), AFFINE + 1e-4 * np.array([[0, 0, 0, 1]] * 3 + [[0, 0, 0, 0]]))
    assert load_case(folder).images.shape == (4, *SHAPE)


def test_four_axes(folder):
    replace(folder, "t1c", np.stack([brain(), brain(1)], axis=-1))
    message = message_of(load_case, folder)
    assert all(text in message for text in ("X-t1c.nii.gz", "4 axes", "12 × 13 × 14 × 2", "Expected one 3-D image"))


def test_two_axes(folder):
    replace(folder, "t1c", brain()[:, :, 5])
    assert "2 axes" in message_of(load_case, folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(folder, value):
    image = brain()
    image[5, 5, 5:7] = value
    replace(folder, "t2w", image)
    message = message_of(load_case, folder)
    assert "Contrast t2w holds 2 voxels" in message
    assert "X-t2w.nii.gz" in message


def test_beyond_float32(folder):
    replace(folder, "t2w", brain().astype(np.float64) * 1e300)
    assert "beyond float32" in message_of(load_case, folder)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros(SHAPE, np.float32), "is empty"),
        (np.full(SHAPE, 7, np.float32), "is constant: every voxel is 7"),
        ((brain() > 0).astype(np.float32), "every voxel above 0 is 1"),
        (-brain(), "no voxel is above 0"),
    ],
)
def test_images_without_information(folder, image, found):
    replace(folder, "t1n", image)
    message = message_of(load_case, folder)
    assert message.startswith("Contrast t1n")
    assert found in message


@pytest.mark.parametrize("spacing", [(0.5, 1, 1), (1, 1, 5), (1.3, 1.3, 1.3)])
def test_spacing_far_from_1_mm(tmp_path, spacing):
    affine = np.diag([*spacing, 1.0])
    message = message_of(Case.from_arrays, "X", np.stack([brain(n) for n in range(4)]), affine)
    assert " × ".join(f"{s:.3g}" for s in spacing) in message
    assert "resample_to_output" in message


def test_the_accepted_spacing_is_an_argument(folder):
    for number, contrast in enumerate(CONTRASTS):
        replace(folder, contrast, brain(number), np.diag([2, 2, 2, 1.0]))
    assert "0.8 to 1.25 mm" in message_of(load_case, folder)
    assert load_case(folder, spacing_range_mm=(1, 3)).spacing_mm == (2, 2, 2)


def stored(kind, good):
    plain = gzip.decompress(good)
    return {
        "truncated gzip": good[: len(good) // 2],
        "gzip header alone": good[:8],
        "flipped bit": good[:600] + bytes([good[600] ^ 0x55]) + good[601:],
        "gzip of text": gzip.compress(b"not an image" * 100),
        "text": b"not an image",
        "zeros": bytes(1000),
        "noise": np.random.default_rng(0).bytes(5000),
        "empty": b"",
        "truncated voxels": gzip.compress(plain[:-1000]),
        "header alone": gzip.compress(plain[:352]),
        "half a header": gzip.compress(plain[:200]),
        "announces more than memory": gzip.compress(plain[:42] + b"\xff\x7f" * 3 + plain[48:]),
    }[kind]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated gzip", "truncated gzip"),
        ("gzip header alone", "truncated gzip"),
        ("flipped bit", "damaged"),
        ("gzip of text", "not a NIfTI"),
        ("text", "not a NIfTI"),
        ("zeros", "not a NIfTI"),
        ("noise", "not a NIfTI"),
        ("empty", "not a NIfTI"),
        ("truncated voxels", "cannot be read"),
        ("header alone", "cannot be read"),
        ("half a header", "not a NIfTI"),
        ("announces more than memory", "cannot be read"),
    ],
)
def test_damaged_files(folder, kind, said, suffix):
    good = folder / "X-t1c.nii.gz"
    content = stored(kind, good.read_bytes())
    good.unlink()
    (folder / f"X-t1c{suffix}").write_bytes(content)
    message = message_of(load_case, folder)
    assert said in message
    assert f"X-t1c{suffix}" in message
    assert len(message.splitlines()) <= 4


def test_colour_and_complex_images(folder):
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for image in (colour, brain().astype(np.complex64)):
        replace(folder, "t1c", image)
        assert "Expected one real number per voxel" in message_of(load_case, folder)


def test_a_path_that_does_not_exist(folder):
    assert "No such file" in message_of(load_case, folder / "absent")
    files = {contrast: folder / f"{contrast}.nii" for contrast in CONTRASTS}
    assert "Cannot read" in message_of(load_case, files=files)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_that_may_not_be_read(folder):
    (folder / "X-t1n.nii.gz").chmod(0)
    assert "Permission denied" in message_of(load_case, folder)


def test_explicit_files_must_be_four(folder):
    files = {"t1n": folder / "X-t1n.nii.gz", "t2": folder / "X-t2w.nii.gz"}
    assert "given for t1n, t2" in message_of(load_case, files=files)
    assert "No input" in message_of(load_case)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".."])
def test_a_name_that_leaves_the_output_folder(folder, name):
    assert "The case name is" in message_of(load_case, folder, name=name)


@pytest.mark.parametrize(("images", "affine"), [((3, 4, 4, 4), (4, 4)), ((4, 4, 4), (4, 4)), ((4, 4, 4, 4), (3, 4))])
def test_arrays_of_other_shapes(images, affine):
    message = message_of(Case.from_arrays, "X", np.ones(images), np.ones(affine))
    assert str(images) in message
    assert "Expected images (4, X, Y, Z)" in message


def test_nothing_is_written_beside_a_bad_case(folder):
    (folder / "X-t2w.nii.gz").write_bytes(b"broken")
    before = sorted(folder.iterdir())
    message_of(load_case, folder)
    assert sorted(folder.iterdir()) == before
