"""Files that are written: header, bytes, and that they appear whole or not at all."""

import nibabel as nib
import numpy as np
import pytest

from rediffinet.errors import OutputError
from rediffinet.files import write_atomically
from rediffinet.io.geometry import Grid
from rediffinet.io.nifti import read_nifti, write_nifti

SHAPE = (5, 6, 7)
AFFINE = np.array([[-1, 0, 0, 3], [0, -1, 0, 239], [0, 0, 1, -8], [0, 0, 0, 1.0]])


@pytest.fixture
def grid():
    return Grid(SHAPE, AFFINE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_type_and_scaling_are_written_as_asked(tmp_path, grid, dtype, suffix):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    write_nifti(tmp_path / f"a{suffix}", array, grid, dtype=dtype, description="a map", intent="label")
    image = nib.load(tmp_path / f"a{suffix}")
    assert image.get_data_dtype() == dtype
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    assert np.array_equal(np.asarray(image.dataobj), array.astype(dtype))
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"a map"
    assert image.header.get_intent()[0] == "label"


def test_channels_become_the_fourth_axis(tmp_path, grid):
    array = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    write_nifti(tmp_path / "p.nii.gz", array, grid, dtype=np.float32)
    image = nib.load(tmp_path / "p.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), np.moveaxis(array, 0, -1))
    assert np.array_equal(image.affine, AFFINE)


def test_equal_arrays_give_equal_bytes(tmp_path, grid):
    for name in "ab":
        write_nifti(tmp_path / f"{name}.nii.gz", np.ones(SHAPE), grid, dtype=np.uint8)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_geometry_is_repeated_and_free_text_is_not(tmp_path, image_class):
    source = image_class(np.ones((*SHAPE, 1), np.float32), AFFINE)
    source.set_qform(AFFINE, code=3)
    source.set_sform(AFFINE, code=4)
    source.header.set_xyzt_units("mm", "sec")
    source.header["descrip"] = b"Jane Doe"
    source.header["aux_file"] = b"doe.txt"
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born 1970"))
    nib.save(source, tmp_path / "source.nii")
    read = read_nifti(tmp_path / "source.nii")
    write_nifti(tmp_path / "out.nii", np.ones(SHAPE), read.grid, read.header, dtype=np.uint8)
    out = nib.load(tmp_path / "out.nii")
    assert type(out) is image_class
    assert (out.header["sform_code"], out.header["qform_code"]) == (4, 3)
    assert out.header.get_xyzt_units() == ("mm", "sec")
    assert np.array_equal(out.affine, AFFINE)
    content = (tmp_path / "out.nii").read_bytes()
    assert b"oe" not in content
    assert b"1970" not in content


@pytest.mark.parametrize("shape", [(5, 6, 8), (7, 6, 5), (2, 3, *SHAPE)])
def test_an_array_on_another_grid_is_refused(tmp_path, grid, shape):
    with pytest.raises(OutputError, match="not on the input's grid"):
        write_nifti(tmp_path / "a.nii.gz", np.zeros(shape), grid, dtype=np.uint8)
    assert not list(tmp_path.iterdir())


def test_an_absent_folder_and_a_folder_in_the_way_are_refused(tmp_path, grid):
    with pytest.raises(OutputError, match="No such file"):
        write_nifti(tmp_path / "absent" / "a.nii.gz", np.zeros(SHAPE), grid, dtype=np.uint8)
    (tmp_path / "a.nii.gz").mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        write_nifti(tmp_path / "a.nii.gz", np.zeros(SHAPE), grid, dtype=np.uint8)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a.bin"
    write_atomically(target, b"old")

    def full_disk(self, other):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(target), "replace", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
