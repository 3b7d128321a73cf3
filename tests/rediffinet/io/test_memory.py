"""Files of a few kB that announce or unpack to gigabytes: refused before, in little memory."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Peak = Callable[[str, Path], tuple[int, str]]
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


def head_of(shape: tuple[int, int, int], dtype: type = np.int16) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header.binaryblock + bytes(4)


def packed_zeros(start: bytes, size: int) -> bytes:
    """gzip of a start and zeros, without having them in memory."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(2**20)) for _ in range(size // 2**20)]
    parts += [packer.compress(bytes(size % 2**20)), packer.flush()]
    return b"".join(parts)


def case(folder: Path, content: bytes) -> Path:
    for contrast in CONTRASTS:
        (folder / f"X-{contrast}.nii.gz").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("shape", "size", "said"),
    [
        ((1024, 1024, 512), 2**28, "announces 1024 × 1024 × 512 = 537 million voxels"),
        ((512, 512, 500), 2**28, "The images of the case announce 524 million voxels"),
        ((32, 32, 32), 2**28, "is longer than its header announces"),
    ],
)
def test_bombs_are_refused_by_their_header(
    peak_mib: Peak, tmp_path: Path, shape: tuple[int, int, int], size: int, said: str
) -> None:
    content = packed_zeros(head_of(shape), size)
    assert len(content) < 2**20
    most, message = peak_mib("nifti", case(tmp_path, content))
    assert said in message
    assert most < 64


def test_a_file_that_is_longer_than_announced_and_not_packed(peak_mib: Peak, tmp_path: Path) -> None:
    for contrast in CONTRASTS:
        with (tmp_path / f"X-{contrast}.nii").open("wb") as stream:
            stream.write(head_of((32, 32, 32)))
            stream.truncate(2**28)
    most, message = peak_mib("nifti", tmp_path)
    assert "is longer than its header announces" in message
    assert most < 64


def test_bytes_before_the_voxels_without_end(peak_mib: Peak, tmp_path: Path) -> None:
    head = bytearray(head_of((32, 32, 32)))
    head[108:112] = np.float32(2e9).tobytes()
    most, message = peak_mib("nifti", case(tmp_path, packed_zeros(bytes(head), 1000)))
    assert "bytes before the voxels" in message
    assert most < 64


def test_a_large_scan_and_padding_pass(tmp_path: Path) -> None:
    """512 × 512 × 400 voxels; a few bytes more than there are voxels; extensions before them."""
    from rediffinet.io.nifti import read_nifti

    large = tmp_path / "large.nii.gz"
    large.write_bytes(packed_zeros(head_of((512, 512, 400), np.uint8), 512 * 512 * 400))
    assert read_nifti(large).grid.shape == (512, 512, 400)
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    for content in (image.to_bytes(), gzip.compress(image.to_bytes() + bytes(1000))):
        small = tmp_path / "small.nii.gz"
        small.write_bytes(content)
        assert np.array_equal(read_nifti(small).voxels, voxels)
