"""One series → one volume with its affine: by positions and orientations of its frames, never by names of planes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError
from rediffinet.io.checks import check_image_size
from rediffinet.io.dicom.files import Series, find_value
from rediffinet.io.geometry import Grid
from rediffinet.io.nifti import Image, new_header

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_DIRECTION = 1e-3
"""Largest difference of direction cosines within a series."""
SAME_PLACE_MM = 1e-2
UNEVEN = 0.02
"""Largest deviation of a gap from the others, as a share; a missing slice makes one twice as wide."""
LARGEST_TILT_DEGREES = 0.5
LYING = 0.1
"""Largest difference between SpacingBetweenSlices and the positions, as a share of these."""
SPACING_MM = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane: instance, frame in it (from 0), LPS position of its first pixel, orientation, mm per row, column."""

    instance: int
    index: int
    position: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64]
    spacing: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Stack:
    """The frames of a series in the order of their places, and the grid that they make.

    The grid's axes are columns, rows, frames: an array (X, Y, Z) has pixel (row j, column i) of frame k at [i, j, k].
    """

    series: Series
    frames: tuple[Frame, ...]
    grid: Grid


def stack_frames(series: Series) -> Stack:
    """Order the frames and derive the affine.

    Raises CaseError, naming the series by its number: what is no single-channel image, a lone slice, several
    orientations, duplicates, missing slices, uneven gaps, a tilted gantry, spacings that are absent or contradict.
    """
    where = f"series {series.number}"
    if series.problem:
        raise CaseError(f"The images of {where} cannot be used: {series.problem}.\nChoose another series.")
    shapes = {(int(header.get("Rows", 0)), int(header.get("Columns", 0))) for header in series.headers}
    held = sum(max(1, int(header.get("NumberOfFrames", 1) or 1)) for header in series.headers)  # all are decoded
    check_image_size(where.capitalize(), (*max(shapes), held))
    frames = [frame for number, header in enumerate(series.headers) for frame in _frames(where, number, header)]
    if len(frames) < 2:
        raise CaseError(f"There is one slice in {where}.\nExpected a series that covers the head.")
    first = frames[0]
    if any(np.abs(frame.orientation - first.orientation).max() > SAME_DIRECTION for frame in frames):
        raise CaseError(f"The slices of {where} have more than one orientation.\nIt looks like a localiser.")
    if any(np.abs(np.subtract(frame.spacing, first.spacing)).max() > 1e-4 for frame in frames):
        raise CaseError(f"The slices of {where} differ in pixel spacing.\nExpected one series, not several.")
    if len(shapes) > 1:
        raise CaseError(f"The slices of {where} differ in size.\nExpected one series, not several.")
    row, column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(row, column)
    frames.sort(key=lambda frame: float(frame.position @ normal))
    step = _step(where, frames, normal, series)
    rows, columns = shapes.pop()
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = frames[0].position
    grid = Grid((columns, rows, len(frames)), np.asarray(LPS @ affine, np.float64))
    return Stack(series, tuple(frames), grid)


def read_volume(stack: Stack) -> Image:
    """The voxels (X, Y, Z) float32 in the scanner's units. path: a name without any text of the headers.

    Raises CaseError for pixels that cannot be decoded; it names the transfer syntax.
    """
    voxels = np.empty(stack.grid.shape, np.float32)
    digest = hashlib.sha256()
    places: dict[int, list[tuple[int, int]]] = {}
    for k, frame in enumerate(stack.frames):
        places.setdefault(frame.instance, []).append((k, frame.index))
    for instance, held in places.items():
        dataset = stack.series.blobs[instance].read(pixels=True)
        try:
            pixels = dataset.pixel_array
        except Exception as error:  # whatever a decoder raises
            syntax = dataset.file_meta.TransferSyntaxUID
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            remedy = "Fetch the series again: a file of it is damaged."
            if syntax.is_compressed:
                remedy = "Store the series uncompressed, or install a decoder: pip install 'pylibjpeg[all]'."
            message = f"The pixels of series {stack.series.number} cannot be decoded: transfer syntax {syntax.name}"
            raise CaseError(f"{message} ({said}).\n{remedy}") from None
        pixels = pixels.reshape(-1, *pixels.shape[-2:])
        for k, index in held:
            digest.update(np.ascontiguousarray(pixels[index]).tobytes())
            slope, intercept = _rescale(dataset, index)
            voxels[:, :, k] = pixels[index].T.astype(np.float32) * slope + intercept
    name = hashlib.sha256(stack.series.uid.encode()).hexdigest()[:12]
    return Image(
        Path(f"dicom-series-{stack.series.number}-{name}"),
        digest.hexdigest(),
        voxels,
        stack.grid,
        new_header(stack.grid.affine),
    )


def _frames(where: str, number: int, header: Any) -> list[Frame]:
    per_frame = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    shared = (list(header.get("SharedFunctionalGroupsSequence") or []) or [None])[0]
    if not per_frame:
        return [_frame(where, number, 0, [header])]
    return [_frame(where, number, index, [group, shared]) for index, group in enumerate(per_frame)]


def _frame(where: str, number: int, index: int, groups: list[Any]) -> Frame:
    position = _numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = _numbers(groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    for name, value in (("position", position), ("orientation", orientation), ("pixel spacing", spacing)):
        if value is None or not np.isfinite(value).all():
            raise CaseError(f"A slice of {where} has no {name}.\nExpected slices that say where they are.")
    assert position is not None and orientation is not None and spacing is not None
    if not all(SPACING_MM[0] <= size <= SPACING_MM[1] for size in spacing):
        said = " × ".join(f"{size:g}" for size in spacing)
        raise CaseError(
            f"The pixels of {where} are said to be {said} mm.\nExpected {SPACING_MM[0]} to {SPACING_MM[1]}."
        )
    row, column = orientation[:3], orientation[3:]
    lengths = np.abs([row @ row - 1, column @ column - 1, row @ column]).max()
    if lengths > 1e-2:
        raise CaseError(f"The orientation of {where} is no pair of perpendicular directions.\nExport it again.")
    return Frame(number, index, position, orientation, (float(spacing[0]), float(spacing[1])))


def _numbers(groups: list[Any], sequence: str, keyword: str, count: int) -> npt.NDArray[np.float64] | None:
    for group in groups:
        if group is None:
            continue
        holder = (list(group.get(sequence) or []) or [group])[0]
        value = holder.get(keyword)
        if value is not None and len(value) == count:
            return np.array([float(number) for number in value])
    return None


def _step(where: str, frames: list[Frame], normal: npt.NDArray[np.float64], series: Series) -> npt.NDArray[np.float64]:
    """The way from one slice to the next, LPS mm."""
    along = np.array([float(frame.position @ normal) for frame in frames])
    gaps = np.diff(along)
    double = int(np.count_nonzero(gaps < SAME_PLACE_MM))
    if double:
        message = (
            f"{double + 1} slices of {where} share their place with another: duplicates, or several images of each "
            "slice (echoes, phases, repetitions).\nExpected one image of each slice; export the one that is meant."
        )
        raise CaseError(message)
    gap = float(np.median(gaps))
    holes = [(number, round(float(width) / gap) - 1) for number, width in enumerate(gaps, 1) if width > 1.5 * gap]
    if holes:
        told = ", ".join(f"{count} after slice {number}" for number, count in holes[:5])
        raise CaseError(f"Slices of {where} are missing: {told} of {len(frames)}.\nFetch the whole series.")
    if np.abs(gaps - gap).max() > max(UNEVEN * gap, SAME_PLACE_MM):
        told = f"{gaps.min():.3f} to {gaps.max():.3f} mm"
        raise CaseError(f"The slices of {where} are unevenly spaced: {told}.\nExpected a stack of even gaps.")
    step = (frames[-1].position - frames[0].position) / (len(frames) - 1)
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1.0, 1.0)))
    if tilt > LARGEST_TILT_DEGREES:
        message = f"The slices of {where} are shifted against each other by {tilt:.1f}° (a tilted gantry)."
        raise CaseError(f"{message}\nExpected a stack along its normal; resample it first.")
    told_gap = find_value(series.headers[0], "SpacingBetweenSlices")
    if told_gap is not None and float(told_gap) > 0 and abs(float(told_gap) - gap) > LYING * gap:
        message = (
            f"SpacingBetweenSlices of {where} is {float(told_gap):g} mm, its slices are {gap:.4g} mm apart: slices are "
            "missing at regular distances, or the tag is wrong."
        )
        raise CaseError(f"{message}\nFetch the whole series, or correct the tag.")
    return np.asarray(step, np.float64)


def _rescale(dataset: Any, index: int) -> tuple[np.float32, np.float32]:
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    groups = [per_frame[index]] if per_frame else []
    groups += list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    for group in groups:
        for holder in list(group.get("PixelValueTransformationSequence") or [])[:1]:
            return np.float32(holder.get("RescaleSlope", 1) or 1), np.float32(holder.get("RescaleIntercept", 0) or 0)
    return np.float32(dataset.get("RescaleSlope", 1) or 1), np.float32(dataset.get("RescaleIntercept", 0) or 0)
