"""NIfTI in and out: a file is read once (hash and voxels from the same bytes) and written in one step or not at all."""

import gzip
import hashlib
import io
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from rediffinet.errors import CaseError, OutputError
from rediffinet.files import write_atomically
from rediffinet.io.checks import CaseWarning, check_case_size, check_image_size
from rediffinet.io.geometry import Affine, Grid, check_affine, corner_distance_mm
from rediffinet.io.source import Map, SourceImage

FORM_TOLERANCE_MM = 0.5  # a float32 quaternion near a half turn is good to about 0.2 mm at the corners
LONGEST_QUATERNION = 1.01  # written in float32 by some programs without normalising it; beyond, it is no rotation
LONGEST_READ = 1 + 3 * float(np.finfo(np.float32).eps)  # squared: what nibabel reads as it is
HEAD_BYTES = 544
"""The longer of the two kinds of header, and the mark of no extensions."""
LARGEST_OFFSET = 2**26
PADDING = 2**20
"""Bytes after the voxels that are put up with; some programs write a few."""

_BAD_GZIP: Any = (EOFError, gzip.BadGzipFile, isal_zlib.error)
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class Image:
    """One NIfTI file: voxels (X, Y, Z) in the stored order and type with scaling applied, its grid, header and hash.

    warnings: what had to be assumed to read it.
    """

    path: Path
    sha256: str
    voxels: npt.NDArray[Any]
    grid: Grid
    header: Any
    warnings: tuple[CaseWarning, ...] = ()


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """A case of NIfTI files, or of arrays: maps are stored as NIfTI files with the forms and units of `header`."""

    grid: Grid
    header: Any
    provenance: tuple[SourceImage, ...] = ()

    def write_like(self, content: Map) -> dict[str, bytes]:
        """The map as `.nii.gz`."""
        told = content.description or ", ".join(f"{value} {name}" for value, name in content.labels.items())
        intent = "label" if content.labels else "none"
        encoded = encode_nifti(
            content.voxels, self.grid, self.header, dtype=content.voxels.dtype, description=told, intent=intent
        )
        return {".nii.gz": gzipped(encoded)}


def read_nifti(path: str | os.PathLike[str]) -> Image:
    """Read a 3-D `.nii` or `.nii.gz`; trailing axes of length 1 are dropped.

    The header is read first: no more is read or decompressed than it announces, and that has a limit.
    Raises:
        CaseError: unreadable path, truncated or damaged file, not a NIfTI, not 3-D, not numbers, unusable affine; more
            voxels than `checks.LARGEST_IMAGE_VOXELS`, or more bytes than the header announces.
    """
    path = Path(path)
    return _read(path, _announced(path)[1])


def _read(path: Path, most: int) -> Image:
    """The image in a file of which no more than that many bytes are read, decompressed."""
    try:
        with _open(path) as stream:
            if os.fstat(stream.fileno()).st_size > most + most // 64:  # gzip adds less than that to what it cannot pack
                raise _longer(path)
            stored = stream.read()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    sha256 = hashlib.sha256(stored).hexdigest()
    content = _decompress(path, stored, most)
    del stored
    image, warnings = _parse(path, content)
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
    return Image(path, sha256, voxels, Grid(shape, affine), image.header, warnings)


def read_images(files: Mapping[str, Path]) -> dict[str, Image]:
    """The images of a case, side by side, after all their headers: a case has a limit as a whole.

    Raises CaseError as `read_nifti`, and for more voxels than `checks.LARGEST_CASE_VOXELS`.
    """
    with ThreadPoolExecutor(len(files)) as pool:
        announced = list(pool.map(_announced, files.values()))
        check_case_size(shape for shape, _ in announced)
        return dict(zip(files, pool.map(_read, files.values(), (most for _, most in announced)), strict=True))


def new_header(affine: Affine) -> nib.Nifti1Header:
    """Header for a grid that came without one: sform and, where it can hold the affine, qform; scanner space, mm."""
    header = nib.Nifti1Header()
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    if corner_distance_mm((256, 256, 256), header.get_qform(), affine) > FORM_TOLERANCE_MM:
        header.set_qform(None)  # a quaternion cannot hold shear
    header.set_xyzt_units("mm")
    return header


def encode_nifti(
    array: npt.NDArray[Any],
    grid: Grid,
    header: Any = None,
    *,
    dtype: npt.DTypeLike,
    description: str = "",
    intent: str = "none",
) -> bytes:
    """An array (X, Y, Z), or (C, X, Y, Z) with the channels as the fourth NIfTI axis, as the bytes of a `.nii` file.

    Shape, affine, sform and qform codes and units are those of `header` (None: made for the grid); nothing else of it
    is repeated (free text fields may name a person). Equal arrays give equal bytes.

    Raises:
        OutputError: the array is not on the grid.
    """
    if array.shape[-3:] != grid.shape or array.ndim not in (3, 4):
        raise OutputError(f"An array of shape {array.shape} is not on the input's grid {grid.shape}.")
    data = np.asarray(array, dtype)
    given = new_header(grid.affine) if header is None else header
    fresh = type(given)()
    fresh.set_data_dtype(data.dtype)
    data = np.moveaxis(data, 0, -1) if data.ndim == 4 else data
    fresh.set_data_shape(data.shape)
    for name in _GEOMETRY_FIELDS:
        fresh[name] = given[name]
    fresh["pixdim"][4:] = 1
    fresh["descrip"] = description.encode("utf-8", "replace")[:79]
    fresh.set_intent(intent)
    fresh.set_slope_inter(1, 0)
    image_class: Any = nib.Nifti2Image if isinstance(fresh, nib.Nifti2Header) else nib.Nifti1Image
    encoded: bytes = image_class(data, None, fresh).to_bytes()
    return encoded


def gzipped(content: bytes) -> bytes:
    """Compressed, without a time stamp: equal contents give equal bytes, on one kind of processor."""
    packed: bytes = igzip.compress(content, compresslevel=2, mtime=0)  # 7 times as fast as zlib for 2 % more bytes
    return packed


def write_nifti(
    path: str | os.PathLike[str],
    array: npt.NDArray[Any],
    grid: Grid,
    header: Any = None,
    *,
    dtype: npt.DTypeLike,
    description: str = "",
    intent: str = "none",
) -> None:
    """Write what `encode_nifti` makes, compressed where the name ends in `.gz`. The file appears whole or not at all.

    Raises:
        OutputError: the array is not on the grid, or the file cannot be written.
    """
    encoded = encode_nifti(array, grid, header, dtype=dtype, description=description, intent=intent)
    write_atomically(path, gzipped(encoded) if str(path).lower().endswith(".gz") else encoded)


def form_warnings(headers: dict[str, Any], shape: tuple[int, int, int]) -> list[CaseWarning]:
    """Doubtful positions, each said once for all contrasts; nibabel's choice is followed: sform, qform, none."""
    unknown, differ = [], {}
    for contrast, header in headers.items():
        sform, qform = int(header["sform_code"]), int(header["qform_code"])
        if not sform and not qform:
            unknown.append(contrast)
        elif sform and qform:
            distance = corner_distance_mm(shape, header.get_sform(), header.get_qform())
            if not distance <= FORM_TOLERANCE_MM:
                differ[contrast] = distance
    warnings = []
    if unknown:
        says = "says nothing about its" if len(unknown) == 1 else "say nothing about their"
        message = (
            f"{', '.join(unknown)} {says} orientation (sform and qform codes are 0): the axes are taken as "
            "left, front, up. Where that is wrong, left and right or front and back are swapped for the model."
        )
        warnings.append(CaseWarning("orientation-unknown", message))
    if differ:
        message = (
            f"sform and qform of {', '.join(differ)} differ by {max(differ.values()):.1f} mm at a corner; "
            "the sform is used."
        )
        warnings.append(CaseWarning("sform-qform-differ", message))
    return warnings


def _unreadable(path: Path, error: Exception) -> CaseError:
    reason = getattr(error, "strerror", None) or error  # ValueError: a name that no file can have
    return CaseError(f"Cannot read {path}: {reason}.\nExpected a .nii or .nii.gz file that you may read.")


def _longer(path: Path) -> CaseError:
    message = f"{path} is longer than its header announces: it is no NIfTI image, or a damaged one.\n"
    return CaseError(message + "Fetch or write the file again.")


def _bad_gzip(path: Path, error: Exception) -> CaseError:
    return CaseError(f"{path} is a damaged or truncated gzip file ({error}).\nFetch or write the file again.")


def _head(path: Path, stream: IO[bytes]) -> bytes:
    """The first bytes of the content."""
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    try:
        head: bytes = igzip.IGzipFile(fileobj=stream).read(HEAD_BYTES) if packed else stream.read(HEAD_BYTES)
    except _BAD_GZIP as error:
        raise _bad_gzip(path, error) from error
    return head


def _open(path: Path) -> IO[bytes]:
    """A file to read. What only waits for a writer, a pipe or a device, is refused: reading it might never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is no regular file")
    return path.open("rb")


def _announced(path: Path) -> tuple[tuple[int, int, int], int]:
    """Shape, and the most bytes that the content may have, decompressed, by the header; CaseError for too many."""
    try:
        with _open(path) as stream:
            head = _head(path, stream)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    image = _lazy(path, head)
    shape, _ = _geometry(path, image)
    check_image_size(str(path), shape)
    data = image.dataobj
    if data.offset > LARGEST_OFFSET:
        message = f"{path} is damaged: its header announces {data.offset} bytes before the voxels.\n"
        raise CaseError(message + "Fetch or write the file again.")
    return shape, int(data.offset) + math.prod(image.shape) * data.dtype.itemsize + PADDING


def _lazy(path: Path, head: bytes) -> Any:
    """The image of a header, without voxels and extensions."""
    length = 540 if head[4:8] == b"n+2\0" else 348
    return _parse(path, head[:length] + bytes(4 if len(head) >= length else 0))[0]


def _decompress(path: Path, stored: bytes, most: int) -> bytes:
    """The content of a file; raises CaseError as soon as it is longer than `most` bytes."""
    if stored[:2] == b"\x1f\x8b":
        try:
            unpacker = isal_zlib.decompressobj(wbits=31)
            stored, packed = unpacker.decompress(stored, most + 1), stored
            if unpacker.unused_data:  # several members
                stored = igzip.IGzipFile(fileobj=io.BytesIO(packed)).read(most + 1)
            elif not unpacker.eof and len(stored) <= most:
                raise EOFError("it ends in the middle")
        except _BAD_GZIP as error:
            raise _bad_gzip(path, error) from error
    if len(stored) > most:
        raise _longer(path)
    return stored


def _parse(path: Path, content: bytes) -> tuple[Any, tuple[CaseWarning, ...]]:
    for image_class, magic, place in ((nib.Nifti1Image, b"n+1\0", 344), (nib.Nifti2Image, b"n+2\0", 4)):
        if content[place : place + 4] != magic:
            continue
        try:
            header = image_class.header_class.from_fileobj(io.BytesIO(content), check=False)
            before = header.binaryblock
            warnings = _mend(header, path)
            if header.binaryblock != before:
                content = header.binaryblock + content[len(before) :]
            return image_class.from_bytes(content), warnings
        except CaseError:
            raise
        except Exception as error:  # nibabel passes on whatever its parsers and struct raise
            message = f"{path} has a NIfTI header that cannot be used: {error}.\nFetch or write the file again."
            raise CaseError(message) from error
    if content[344:348] == b"ni1\0" or content[4:8] == b"ni2\0":
        message = (
            f"{path} is the header of a NIfTI pair (.hdr and .img).\nExpected a .nii or .nii.gz file; save it as one."
        )
    else:
        message = (
            f"{path} is not a NIfTI image: it does not start with a NIfTI-1 or NIfTI-2 header.\n"
            "Expected a .nii or .nii.gz file."
        )
    raise CaseError(message)


def _mend(header: Any, path: Path) -> tuple[CaseWarning, ...]:
    """Put right, in place, what other readers put up with; returns what had to be assumed.

    A quaternion a little longer than 1 is normalised, and one that is no rotation is not used where there is an sform.
    An intercept or slope that is no number scales nothing (as in the NIfTI reference library).
    """
    warnings = []
    if int(header["qform_code"]) > 0:
        quaternion = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
        norm = float(np.linalg.norm(quaternion))
        if norm**2 > LONGEST_READ and norm <= LONGEST_QUATERNION:
            for axis, value in zip("bcd", quaternion, strict=True):
                header[f"quatern_{axis}"] = np.float32(value / norm) * np.float32(1 - 2.0**-23)
        elif not norm <= LONGEST_QUATERNION:
            if not int(header["sform_code"]) > 0:
                message = (
                    f"{path} places no voxels in space: its only orientation is a quaternion of length {norm:.4g}.\n"
                    f"Expected one of length up to 1. Write the file again with an sform or a rotation."
                )
                raise CaseError(message)
            header["qform_code"] = 0
            message = f"The quaternion of {path.name} has length {norm:.4g} and is no rotation; the sform is used."
            warnings.append(CaseWarning("qform-unusable", message))
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(intercept):
        header["scl_inter"] = 0
        message = f"The intercept (scl_inter) of {path.name} is {intercept}; its voxels are read with 0 instead."
        warnings.append(CaseWarning("scaling-unclear", message))
    elif np.isinf(slope):
        header["scl_slope"], header["scl_inter"] = 1, 0
        message = f"The slope (scl_slope) of {path.name} is {slope}; its voxels are read as they are stored."
        warnings.append(CaseWarning("scaling-unclear", message))
    return tuple(warnings)


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
