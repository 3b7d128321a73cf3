"""NIfTI in and out: a file is read once (hash and voxels from the same bytes) and written in one step or not at all."""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError, OutputError
from rediffinet.files import write_atomically
from rediffinet.io.geometry import Affine, Grid, check_affine, corner_distance_mm

FORM_TOLERANCE_MM = 0.5  # a float32 quaternion near a half turn is good to about 0.2 mm at the corners

_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class Volume:
    """One NIfTI file: voxels (X, Y, Z) in the stored order and type with scaling applied, its grid and its hash."""

    path: Path
    sha256: str
    voxels: npt.NDArray[Any]
    grid: Grid


def read_nifti(path: str | os.PathLike[str]) -> Volume:
    """Read a 3-D `.nii` or `.nii.gz`; trailing axes of length 1 are dropped.

    Raises:
        CaseError: unreadable path, truncated or damaged file, not a NIfTI, not 3-D, not numbers, unusable affine.
    """
    path = Path(path)
    try:
        stored = path.read_bytes()
    except OSError as error:
        message = f"Cannot read {path}: {error.strerror or error}.\nExpected a .nii or .nii.gz file that you may read."
        raise CaseError(message) from error
    image = _parse(path, _decompress(path, stored))
    shape, affine = _geometry(path, image)
    try:
        voxels = np.asanyarray(image.dataobj).reshape(shape)
    except Exception as error:  # short data: OSError, ValueError or MemoryError, by the type of the file
        message = (
            f"{path} is damaged: its header announces {' × '.join(map(str, shape))} voxels of "
            f"{image.get_data_dtype()}, and they cannot be read ({error}).\nFetch or write the file again."
        )
        raise CaseError(message) from error
    if voxels.dtype.kind not in "fiub":
        message = f"{path} holds {voxels.dtype} voxels.\nExpected one real number per voxel; save it as a scalar image."
        raise CaseError(message)
    return Volume(path, hashlib.sha256(stored).hexdigest(), voxels, Grid(shape, affine, image.header))


def new_header(affine: Affine) -> nib.Nifti1Header:
    """Header for a grid that came without one: sform and, where it can hold the affine, qform; scanner space, mm."""
    header = nib.Nifti1Header()
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    if corner_distance_mm((256, 256, 256), header.get_qform(), affine) > FORM_TOLERANCE_MM:
        header.set_qform(None)  # a quaternion cannot hold shear
    header.set_xyzt_units("mm")
    return header


def write_nifti(
    path: str | os.PathLike[str],
    array: npt.NDArray[Any],
    grid: Grid,
    *,
    dtype: npt.DTypeLike,
    description: str = "",
    intent: str = "none",
) -> None:
    """Write an array (X, Y, Z), or (C, X, Y, Z) with the channels as the fourth NIfTI axis, that is on `grid`.

    Shape, affine, sform and qform codes and units are those of the input; nothing else of its header is repeated (free
    text fields may name a person). The file appears complete or not at all; equal arrays give equal bytes.

    Raises:
        OutputError: the array is not on the grid, or the file cannot be written.
    """
    path = Path(path)
    if array.shape[-3:] != grid.shape or array.ndim not in (3, 4):
        raise OutputError(f"{path}: an array of shape {array.shape} is not on the input's grid {grid.shape}.")
    data = np.asarray(array, dtype)
    header = type(grid.header)()
    header.set_data_dtype(data.dtype)
    data = np.moveaxis(data, 0, -1) if data.ndim == 4 else data
    header.set_data_shape(data.shape)
    for field in _GEOMETRY_FIELDS:
        header[field] = grid.header[field]
    header["pixdim"][4:] = 1
    header["descrip"] = description.encode()[:79]
    header.set_intent(intent)
    header.set_slope_inter(1, 0)
    image_class: Any = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    encoded = image_class(data, None, header).to_bytes()
    if path.name.lower().endswith(".gz"):
        encoded = gzip.compress(encoded, compresslevel=5, mtime=0)
    write_atomically(path, encoded)


def _decompress(path: Path, stored: bytes) -> bytes:
    if stored[:2] != b"\x1f\x8b":
        return stored
    try:
        return gzip.decompress(stored)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"{path} is a damaged or truncated gzip file ({error}).\nFetch or write the file again."
        raise CaseError(message) from error


def _parse(path: Path, content: bytes) -> Any:
    reason = "it does not start with a NIfTI-1 or NIfTI-2 header"
    for image_class, magic, place in ((nib.Nifti1Image, b"n+1\0", 344), (nib.Nifti2Image, b"n+2\0", 4)):
        if content[place : place + 4] != magic:
            continue
        try:
            return image_class.from_bytes(content)
        except Exception as error:  # nibabel passes on whatever its parsers and struct raise
            reason = str(error)
    message = f"{path} is not a NIfTI image: {reason}.\nExpected a .nii or .nii.gz file."
    raise CaseError(message)


def _geometry(path: Path, image: Any) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        message = (
            f"{path} has {len(shape)} axes: {' × '.join(map(str, shape))}.\n"
            "Expected one 3-D image per contrast; split a series into one file per contrast."
        )
        raise CaseError(message)
    affine = np.array(image.affine, np.float64)
    check_affine(affine, str(path))
    return (shape[0], shape[1], shape[2]), affine
