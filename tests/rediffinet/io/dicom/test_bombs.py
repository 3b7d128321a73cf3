"""Deflated files of a few kB, and frames that are not there: refused in little memory."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.io.dicom.files import read_series
from rediffinet.io.dicom.volume import read_volume, stack_frames

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
Peak = Callable[[str, Path], tuple[int, str]]


def deflated(path: Path, target: Path, **tags: Any) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(target, enforce_file_format=True)


def test_deflated_dicom_is_read_and_its_bombs_are_not(peak_mib: Peak, single: Any, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, (9, 7, 5))
    paths = single(tmp_path / "plain", voxels, np.diag([-1.0, -1, 2, 1]))
    (tmp_path / "deflated").mkdir()
    for path in paths:
        deflated(path, tmp_path / "deflated" / path.name)
    plain, other = (read_volume(stack_frames(read_series(tmp_path / name)[0])) for name in ("plain", "deflated"))
    assert np.array_equal(plain.voxels, other.voxels)

    (tmp_path / "bomb").mkdir()
    content = (tmp_path / "deflated" / paths[0].name).read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")  # (0002,0000): where the dataset begins
    inside = zlib.decompress(content[start:], -15)
    packer = zlib.compressobj(9, wbits=-15)
    parts = [content[:start], packer.compress(inside)]
    parts += [packer.compress(bytes(2**20)) for _ in range(400)]
    (tmp_path / "bomb" / "a.dcm").write_bytes(b"".join([*parts, packer.flush()]))
    assert (tmp_path / "bomb" / "a.dcm").stat().st_size < 3 * 2**20
    most, message = peak_mib("dicom", tmp_path / "bomb")
    assert "inflates to more than" in message
    assert most < 64


def test_many_deflated_files_are_not_kept(peak_mib: Peak, single: Any, tmp_path: Path) -> None:
    """40 slices of 8 MiB each: their headers are kept, and one image at a time."""
    paths = single(tmp_path / "plain", np.zeros((4, 4, 40), np.int16), np.diag([-1.0, -1, 2, 1]))
    (tmp_path / "deflated").mkdir()
    for path in paths:
        deflated(path, tmp_path / "deflated" / path.name, Rows=2048, Columns=2048, PixelData=bytes(2**23))
    most, message = peak_mib("dicom", tmp_path / "deflated")
    assert "Series 1 announces 2048 × 2048 × 40 = 168 million voxels" in message
    assert most < 64


def test_frames_that_are_announced_and_not_there(peak_mib: Peak, single: Any, tmp_path: Path) -> None:
    single(tmp_path, np.zeros((4, 4, 3), np.int16), np.diag([-1.0, -1, 2, 1]), NumberOfFrames=10_000_000)
    most, message = peak_mib("dicom", tmp_path)
    assert "Series 1 announces 4 × 4 × 30000000 = 480 million voxels" in message
    assert most < 64
