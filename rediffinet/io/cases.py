"""A case: four MRI contrasts of one examination, checked, in canonical orientation, with the way back to its grid."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError, LabelError, OutputError
from rediffinet.io.checks import SPACING_RANGE_MM, CaseWarning, check_images, check_spacing
from rediffinet.io.geometry import (
    Affine,
    Grid,
    check_affine,
    corner_distance_mm,
    spacing_mm,
    to_canonical,
    to_input_grid,
)
from rediffinet.io.naming import case_name, find_cases, find_contrasts, find_labels
from rediffinet.io.nifti import FORM_TOLERANCE_MM, Volume, new_header, read_nifti, write_nifti
from rediffinet.labels import BRATS_2021, BRATS_2023, CONTRASTS, LabelSchema

__all__ = [
    "Case",
    "CaseWarning",
    "Grid",
    "SourceImage",
    "find_cases",
    "find_contrasts",
    "find_labels",
    "load_case",
    "load_labels",
    "recognise_schema",
    "to_input_grid",
    "write_nifti",
]

GRID_TOLERANCE_MM = 1e-2  # at the corners; float32 headers of the same grid differ by up to 1e-4


@dataclass(frozen=True)
class SourceImage:
    """Where a contrast came from: file, SHA-256 of the file, and shape and spacing in mm as stored."""

    contrast: str
    path: str
    sha256: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Case:
    """Images float32 (4, X, Y, Z) in the order t1n, t1c, t2w, t2f, C-contiguous, canonical (LPS) orientation.

    `affine` (4, 4) float64 belongs to these arrays; `grid` is the grid they were stored on.
    """

    name: str
    images: npt.NDArray[np.float32]
    affine: Affine
    grid: Grid
    sources: tuple[SourceImage, ...] = ()
    warnings: tuple[CaseWarning, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbours along each canonical axis."""
        return spacing_mm(self.affine)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        images: npt.ArrayLike,
        affine: npt.ArrayLike,
        spacing_range_mm: tuple[float, float] = SPACING_RANGE_MM,
    ) -> "Case":
        """Case of images (4, X, Y, Z) that are in memory, in any orientation that `affine` (4, 4) describes.

        Raises:
            CaseError: as `load_case`.
        """
        stack = np.asarray(images)
        matrix = np.array(affine, np.float64)
        if stack.ndim != 4 or len(stack) != len(CONTRASTS) or matrix.shape != (4, 4):
            message = (
                f"Images have shape {stack.shape} and the affine has shape {matrix.shape}.\n"
                f"Expected images (4, X, Y, Z) in the order {', '.join(CONTRASTS)} and an affine (4, 4)."
            )
            raise CaseError(message)
        check_affine(matrix, f"case {name}")
        grid = Grid(stack.shape[1:], matrix, new_header(matrix))
        canonical = np.ascontiguousarray(to_canonical(stack, grid), np.float32)
        return _checked(cls(name, canonical, grid.canonical_affine, grid), spacing_range_mm)

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> dict[str, Path]:
        """Write the contrasts on their own grid as `NAME-t1n.nii.gz` … and return the paths, keyed by contrast.

        Whole numbers that fit are stored as int16, others as float32.

        Raises:
            OutputError: a file exists (and not `overwrite`), or the folder cannot be written.
        """
        folder = Path(folder)
        paths = {contrast: folder / f"{self.name}-{contrast}.nii.gz" for contrast in CONTRASTS}
        existing = [path.name for path in paths.values() if path.exists()]
        if existing and not overwrite:
            raise OutputError(f"{folder} already holds {', '.join(existing)}.\nChoose another folder, or overwrite.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make the folder {folder}: {error.strerror or error}.") from error
        stored = to_input_grid(self.images, self.grid)
        for contrast, image in zip(CONTRASTS, stored, strict=True):
            fits = abs(image).max() <= np.iinfo(np.int16).max and bool((image == np.rint(image)).all())
            write_nifti(paths[contrast], image, self.grid, dtype=np.int16 if fits else np.float32)
        return paths


def load_case(
    path: str | PathLike[str] | None = None,
    *,
    files: Mapping[str, str | PathLike[str]] | None = None,
    channels: Sequence[str] | None = None,
    name: str | None = None,
    spacing_range_mm: tuple[float, float] = SPACING_RANGE_MM,
) -> Case:
    """Load the four contrasts of a case folder, or of explicit `files` keyed t1n, t1c, t2w, t2f.

    Args:
        path: the case folder; not needed with `files`.
        files: one file per contrast, instead of looking for names in the folder.
        channels: contrasts behind nnU-Net's `_0000` … `_0003`.
        name: name of the case; by default what the file names share, else the name of the folder.
        spacing_range_mm: smallest and largest voxel spacing that is accepted.

    Raises:
        CaseError: contrast missing or ambiguous, unreadable, damaged or not 3-D; NaN, infinite, constant or empty
            image; contrasts on different grids; spacing outside the range.
    """
    if files is not None:
        chosen = _explicit(files)
    elif path is not None:
        chosen = find_contrasts(path, channels)
    else:
        raise CaseError("No input: give a case folder, or one file for each of " + ", ".join(CONTRASTS) + ".")
    with ThreadPoolExecutor(len(CONTRASTS)) as pool:
        volumes = dict(zip(chosen, pool.map(read_nifti, chosen.values()), strict=True))
        _same_grid(volumes)
        grid = volumes[CONTRASTS[0]].grid
        images = np.empty((len(CONTRASTS), *grid.canonical_shape), np.float32)
        list(pool.map(_fill, images, volumes.values()))
    folder = Path(path) if path is not None else chosen[CONTRASTS[0]].parent
    case = Case(
        name=name or case_name(chosen, folder),
        images=images,
        affine=grid.canonical_affine,
        grid=grid,
        sources=tuple(_source(contrast, volume) for contrast, volume in volumes.items()),
        warnings=_file_warnings(volumes),
    )
    return _checked(case, spacing_range_mm)


def load_labels(path: str | PathLike[str], grid: Grid | None = None) -> tuple[npt.NDArray[np.uint8], LabelSchema]:
    """Load a label map as uint8 (X, Y, Z) in canonical orientation, values as stored, and recognise its schema.

    ET = 4 means BraTS ≤ 2022; a map without ET is the same in both schemas and counts as BraTS 2023.

    Raises:
        CaseError: the file cannot be read.
        LabelError: the map is not on `grid` (checked when given), or holds values of neither schema.
    """
    volume = read_nifti(path)
    if grid is not None and not _agree(volume.grid, grid):
        raise LabelError(_grids_differ("The label map", "the images", volume.grid, grid, str(volume.path)))
    schema = recognise_schema(volume.voxels, str(volume.path))
    return np.ascontiguousarray(to_canonical(volume.voxels, volume.grid), np.uint8), schema


def recognise_schema(labels: npt.NDArray[Any], where: str) -> LabelSchema:
    """The schema of a label map; `where` is its place in the message. Raises LabelError for values of neither."""
    values = np.unique(labels)
    for schema in (BRATS_2023, BRATS_2021):
        if np.isin(values, (0, *schema.values)).all():
            return schema
    listed = ", ".join(f"{value:g}" for value in values[:12]) + (", …" if len(values) > 12 else "")
    message = (
        f"{where} holds the values {listed}.\n"
        "Expected 0, 1, 2, 3 (BraTS 2023) or 0, 1, 2, 4 (BraTS 2022 and before); "
        "labels 3 and 4 together are those of BraTS 2024 post-treatment, which is not supported."
    )
    raise LabelError(message)


def _explicit(files: Mapping[str, str | PathLike[str]]) -> dict[str, Path]:
    if sorted(files) != sorted(CONTRASTS):
        given = ", ".join(files) or "no contrast"
        message = f"Files are given for {given}.\nExpected one for each of {', '.join(CONTRASTS)}."
        raise CaseError(message)
    return {contrast: Path(files[contrast]) for contrast in CONTRASTS}


def _source(contrast: str, volume: Volume) -> SourceImage:
    return SourceImage(contrast, str(volume.path), volume.sha256, volume.grid.shape, spacing_mm(volume.grid.affine))


def _agree(grid: Grid, other: Grid) -> bool:
    return grid.canonical_shape == other.canonical_shape and (
        corner_distance_mm(grid.canonical_shape, grid.canonical_affine, other.canonical_affine) <= GRID_TOLERANCE_MM
    )


def _same_grid(volumes: Mapping[str, Volume]) -> None:
    first = volumes[CONTRASTS[0]]
    for contrast, volume in volumes.items():
        if not _agree(first.grid, volume.grid):
            one, other = f"Contrast {CONTRASTS[0]}", f"contrast {contrast}"
            raise CaseError(_grids_differ(one, other, first.grid, volume.grid, str(first.path.parent)))


def _grids_differ(one: str, other: str, grid: Grid, other_grid: Grid, where: str) -> str:
    def described(what: str, g: Grid) -> str:
        rows = "\n".join("    " + "  ".join(f"{number:10.4f}" for number in row) for row in g.affine[:3])
        return f"  {what[0].lower()}{what[1:]}: shape {' × '.join(map(str, g.shape))}, affine\n{rows}"

    return (
        f"{one} and {other} are on different grids ({where}):\n"
        f"{described(one, grid)}\n{described(other, other_grid)}\n"
        "Expected the same voxels in space (another storage order is fine). Co-register and resample onto one grid."
    )


def _fill(out: npt.NDArray[np.float32], volume: Volume) -> None:
    with np.errstate(over="ignore"):  # the check of the images names what does not fit
        out[:] = to_canonical(volume.voxels, volume.grid)


def _file_warnings(volumes: Mapping[str, Volume]) -> tuple[CaseWarning, ...]:
    """Doubtful positions (nibabel's choice is followed: sform, then qform, then none) and files given twice."""
    warnings = []
    hashes: dict[str, str] = {}
    for contrast, volume in volumes.items():
        header = volume.grid.header
        sform, qform = int(header["sform_code"]), int(header["qform_code"])
        if not sform and not qform:
            message = (
                f"{contrast} says nothing about its orientation (sform and qform codes are 0): its axes are taken as "
                "left, front, up. Where that is wrong, left and right or front and back are swapped for the model."
            )
            warnings.append(CaseWarning("orientation-unknown", message))
        elif sform and qform:
            distance = corner_distance_mm(volume.grid.shape, header.get_sform(), header.get_qform())
            if not distance <= FORM_TOLERANCE_MM:
                message = f"sform and qform of {contrast} differ by {distance:.1f} mm at a corner; the sform is used."
                warnings.append(CaseWarning("sform-qform-differ", message))
        if volume.sha256 in hashes:
            message = f"{hashes[volume.sha256]} and {contrast} are the same file; the models expect four contrasts."
            warnings.append(CaseWarning("identical-contrasts", message))
        hashes.setdefault(volume.sha256, contrast)
    return tuple(warnings)


def _checked(case: Case, spacing_range_mm: tuple[float, float]) -> Case:
    """The case with the warnings about its images; raises CaseError when it cannot be worked on."""
    if case.name in ("", ".", "..") or set(case.name) & set("/\\\0"):
        message = f"The case name is {case.name!r}.\nExpected one that can be part of a file name, without slashes."
        raise CaseError(message)
    check_spacing(case.name, case.spacing_mm, spacing_range_mm)
    where = [source.path for source in case.sources] or [f"case {case.name}"] * len(CONTRASTS)
    voxel_ml = float(abs(np.linalg.det(case.affine[:3, :3]))) / 1000
    with ThreadPoolExecutor(len(CONTRASTS)) as pool:
        warnings = check_images(case.images, voxel_ml, where, pool)
    return replace(case, warnings=(*case.warnings, *warnings))
