"""A case: the MRI contrasts of one examination, checked, in canonical orientation, with the way back to its grid."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError, LabelError, OutputError
from rediffinet.files import write_together
from rediffinet.io.checks import CaseWarning, check_images, check_spacing
from rediffinet.io.conventions import Conventions
from rediffinet.io.geometry import (
    GRID_SAME_MM,
    Affine,
    Grid,
    check_affine,
    close_enough_mm,
    grid_distance_mm,
    spacing_mm,
    to_canonical,
    to_input_grid,
)
from rediffinet.io.naming import case_name, check_name, find_cases, find_contrasts, find_labels, printable
from rediffinet.io.nifti import Image, NiftiSource, form_warnings, new_header, read_images, read_nifti, write_nifti
from rediffinet.io.source import Map, Read, Source, SourceImage
from rediffinet.task import DEFAULT_TASK, TASKS, Task

__all__ = [
    "Case",
    "CaseWarning",
    "Grid",
    "Source",
    "SourceImage",
    "find_cases",
    "find_contrasts",
    "find_labels",
    "load_case",
    "load_label_map",
    "to_input_grid",
    "write_nifti",
]


@dataclass(frozen=True, eq=False)
class Case:
    """Images float32 (C, X, Y, Z) in the order of `contrasts`, C-contiguous, in canonical (LPS) orientation.

    `affine` (4, 4) float64 belongs to these arrays; `grid` is the grid they were stored on. `load_seconds`: what
    reading and checking took. `missing`: contrasts of which there is no image; they are 0 everywhere.

        >>> import numpy as np
        >>> images = np.random.default_rng(0).uniform(50, 100, (4, 20, 20, 20))
        >>> images[:, 0] = 0  # the background
        >>> case = Case.from_arrays("P1", images, np.diag([-1, -1, 1, 1]))
        >>> case.name, case.contrasts, case.spacing_mm
        ('P1', ('t1n', 't1c', 't2w', 't2f'), (1.0, 1.0, 1.0))
    """

    name: str
    images: npt.NDArray[np.float32]
    affine: Affine
    source: Source
    warnings: tuple[CaseWarning, ...] = ()
    contrasts: tuple[str, ...] = TASKS[DEFAULT_TASK].contrasts
    load_seconds: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid on which the images were stored."""
        return self.source.grid

    @property
    def sources(self) -> tuple[SourceImage, ...]:
        """Where each contrast came from; none for images that were in memory."""
        return self.source.provenance

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
        spacing_range_mm: tuple[float, float] | None = None,
        task: Task = TASKS[DEFAULT_TASK],
        missing: Sequence[str] = (),
    ) -> "Case":
        """Case of images (C, X, Y, Z) that are in memory, in any orientation that `affine` (4, 4) describes.

        spacing_range_mm: as in `load_case`. task: says which contrasts there are. missing: those that the examination
        lacks; what stands in their place does not count. The images are copied: the caller may use the buffer again.

        Raises:
            CaseError: as `load_case`; images that are no real numbers.
        """
        started = time.perf_counter()
        check_name(name)
        contrasts = task.contrasts
        if not set(missing) < set(contrasts):
            message = (
                f"Contrasts are said to be missing: {', '.join(missing)}.\nExpected some of {', '.join(contrasts)}."
            )
            raise CaseError(message)
        stack, matrix = _numbers(images, "The images"), _numbers(affine, "The affine").astype(np.float64)
        if stack.ndim != 4 or len(stack) != len(contrasts) or 0 in stack.shape or matrix.shape != (4, 4):
            message = (
                f"Images have shape {stack.shape} and the affine has shape {matrix.shape}.\n"
                f"Expected images ({len(contrasts)}, X, Y, Z), no axis of them empty, in the order "
                f"{', '.join(contrasts)}, and an affine (4, 4)."
            )
            raise CaseError(message)
        check_affine(matrix, f"case {name}")
        grid = Grid(stack.shape[1:], matrix)
        with np.errstate(over="ignore"):  # the check of the images names what does not fit
            canonical = np.array(to_canonical(stack, grid), np.float32, order="C", copy=True)
        for contrast in missing:
            canonical[contrasts.index(contrast)] = 0.0
        found = Read(name, canonical, NiftiSource(grid, new_header(matrix)))
        return _checked(found, contrasts, spacing_range_mm or task.spacing_mm, started, tuple(missing))

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> dict[str, Path]:
        """Write the contrasts on their own grid as `NAME-t1n.nii.gz` … and return the paths, keyed by contrast.

        Whole numbers that fit are stored as int16, others as float32.

        Raises:
            OutputError: a file exists (and not `overwrite`), or the folder cannot be written.
        """
        folder = Path(folder)
        there = [contrast for contrast in self.contrasts if contrast not in self.missing]
        paths = {contrast: folder / f"{self.name}-{contrast}.nii.gz" for contrast in there}
        existing = [path.name for path in paths.values() if path.exists()]
        if existing and not overwrite:
            raise OutputError(f"{folder} already holds {', '.join(existing)}.\nChoose another folder, or overwrite.")
        contents = {}
        for contrast, image in zip(self.contrasts, to_input_grid(self.images, self.grid), strict=True):
            if contrast in self.missing:
                continue
            fits = abs(image).max() <= np.iinfo(np.int16).max and bool((image == np.rint(image)).all())
            encoded = self.source.write_like(Map(image.astype(np.int16 if fits else np.float32)))
            contents[paths[contrast].name] = encoded[".nii.gz"]
        write_together(folder, contents)
        return paths


def load_case(
    path: str | PathLike[str] | None = None,
    *,
    files: Mapping[str, str | PathLike[str]] | None = None,
    channels: Sequence[str] | None = None,
    name: str | None = None,
    spacing_range_mm: tuple[float, float] | None = None,
    task: Task = TASKS[DEFAULT_TASK],
    allow_missing: bool = False,
) -> Case:
    """Load the contrasts of a case folder, or of explicit `files` keyed by contrast.

    Args:
        path: the case folder, or `FOLDER/CASE` for one of the cases whose files lie together in a folder; not needed
            with `files`.
        files: one file per contrast, instead of looking for names in the folder.
        channels: contrasts behind nnU-Net's `_0000`, `_0001` ….
        name: name of the case; by default what the file names share, else the name of the folder.
        spacing_range_mm: smallest and largest voxel spacing that is accepted; None: the task's.
        task: which contrasts are loaded, and what their files are called.
        allow_missing: one contrast may be absent. A bundle segments such a case where it has scores of such cases.

    Raises:
        CaseError: contrast missing or ambiguous, unreadable, damaged or not 3-D; NaN, infinite, constant or empty
            image; contrasts on different grids; spacing outside the range.

        >>> case = load_case("case_dir")
        >>> case.name, case.images.dtype, [source.contrast for source in case.sources]
        ('P1', dtype('float32'), ['t1n', 't1c', 't2w', 't2f'])
    """
    started = time.perf_counter()
    contrasts = task.contrasts
    if files is not None:
        chosen = _explicit(files, contrasts, allow_missing=allow_missing)
    elif path is not None:
        chosen = find_contrasts(path, channels, task, allow_missing=allow_missing)
    else:
        raise CaseError("No input: give a case folder, or one file for each of " + ", ".join(contrasts) + ".")
    folder = Path(path) if path is not None else next(iter(chosen.values())).parent
    found = _read_nifti_case(chosen, check_name(name) if name is not None else case_name(chosen, folder), contrasts)
    missing = tuple(contrast for contrast in contrasts if contrast not in chosen)
    return _checked(found, contrasts, spacing_range_mm or task.spacing_mm, started, missing)


def load_label_map(
    path: str | PathLike[str], conventions: Conventions, grid: Grid | None = None
) -> npt.NDArray[np.uint8]:
    """Load a label map as uint8 (X, Y, Z) in canonical orientation, with the label values of the conventions' task.

    A grid that was rounded on its way, up to a tenth of a voxel from `grid`, is taken for it.

    Raises:
        CaseError: the file cannot be read.
        LabelError: the map is not on `grid` (checked when given), or holds values that the conventions do not take.
    """
    volume = read_nifti(path)
    if grid is not None and not grid_distance_mm(volume.grid, grid) <= close_enough_mm(grid):
        raise LabelError(grids_differ("The label map", "the images", volume.grid, grid, str(volume.path)))
    labels = conventions.read(volume.voxels, str(volume.path))
    return np.ascontiguousarray(to_canonical(labels, volume.grid))


def grids_differ(one: str, other: str, grid: Grid, other_grid: Grid, where: str) -> str:
    """What is said of two grids that are not the same, with the distance and the two affines."""

    def described(what: str, g: Grid) -> str:
        rows = "\n".join("    " + "  ".join(f"{number:12.6f}" for number in row) for row in g.affine[:3])
        return f"  {what[0].lower()}{what[1:]}: shape {' × '.join(map(str, g.shape))}, affine\n{rows}"

    distance = grid_distance_mm(grid, other_grid)
    apart = "" if distance == float("inf") else f", {distance:.3g} mm apart at a corner"
    return (
        f"{one} and {other} are on different grids{apart} ({where}):\n"
        f"{described(one, grid)}\n{described(other, other_grid)}\n"
        "Expected the same voxels in space (another storage order is fine). Co-register and resample onto one grid."
    )


def rounded_grid(what: str, distance_mm: float) -> CaseWarning:
    """The warning about a grid that is taken for another although it lies `distance_mm` from it at a corner."""
    message = (
        f"{what} up to {distance_mm:.2g} mm at a corner, less than a tenth of a voxel: taken for the same grid, "
        "rounded by another program. Nothing was resampled."
    )
    return CaseWarning("grids-rounded", message)


def _read_nifti_case(files: Mapping[str, Path], name: str, contrasts: tuple[str, ...]) -> Read:
    volumes = read_images(files)
    warnings = _same_grid(volumes)
    first = next(iter(volumes.values()))
    with ThreadPoolExecutor(len(files)) as pool:
        images = np.empty((len(contrasts), *first.grid.canonical_shape), np.float32)
        list(pool.map(lambda out, contrast: _fill(out, volumes.get(contrast)), images, contrasts))
    headers = {contrast: volume.header for contrast, volume in volumes.items()}
    said = [warning for volume in volumes.values() for warning in volume.warnings]
    source = NiftiSource(first.grid, first.header, tuple(_source(c, volume) for c, volume in volumes.items()))
    return Read(name, images, source, (*said, *warnings, *form_warnings(headers, first.grid.shape)))


def _explicit(
    files: Mapping[str, str | PathLike[str]], contrasts: tuple[str, ...], *, allow_missing: bool = False
) -> dict[str, Path]:
    if set(files) - set(contrasts) or len(files) < len(contrasts) - int(allow_missing):
        given = ", ".join(files) or "no contrast"
        but = " but one" if allow_missing else ""
        message = f"Files are given for {given}.\nExpected one for each of {', '.join(contrasts)}{but}."
        raise CaseError(message)
    return {contrast: Path(files[contrast]) for contrast in contrasts if contrast in files}


def _numbers(array: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    """As a NumPy array of real numbers; raises CaseError for anything else."""
    try:
        found = np.asarray(array)
        if found.dtype.kind in "fiub":
            return found
        reason = "hold objects, or numbers too large" if found.dtype == object else f"hold values of {found.dtype}"
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = f"cannot be made an array ({error})"
    raise CaseError(f"{what} {reason}.\nExpected real numbers in an array, such as float32 or int16.")


def _source(contrast: str, volume: Image) -> SourceImage:
    path = printable(str(volume.path))
    return SourceImage(contrast, path, volume.sha256, volume.grid.shape, spacing_mm(volume.grid.affine))


def _same_grid(volumes: Mapping[str, Image]) -> list[CaseWarning]:
    """Raises CaseError where contrasts lie on different grids; returns what was put down to rounding."""
    (name, first), *others = volumes.items()
    rounded = {}
    for contrast, volume in others:
        distance = grid_distance_mm(first.grid, volume.grid)
        if not distance <= close_enough_mm(first.grid):
            one, other = f"Contrast {name}", f"contrast {contrast}"
            raise CaseError(grids_differ(one, other, first.grid, volume.grid, str(first.path.parent)))
        if distance > GRID_SAME_MM:
            rounded[contrast] = distance
    if not rounded:
        return []
    verb = "differs" if len(rounded) == 1 else "differ"
    return [rounded_grid(f"The grid of {', '.join(rounded)} {verb} from that of {name} by", max(rounded.values()))]


def _fill(out: npt.NDArray[np.float32], volume: Image | None) -> None:
    if volume is None:  # a contrast that the examination lacks
        out[:] = 0.0
        return
    with np.errstate(over="ignore"):  # the check of the images names what does not fit
        out[:] = to_canonical(volume.voxels, volume.grid)


def _checked(
    found: Read,
    contrasts: tuple[str, ...],
    spacing_range_mm: tuple[float, float],
    started: float,
    missing: tuple[str, ...] = (),
) -> Case:
    """The case with the warnings about its images; raises CaseError when it cannot be worked on."""
    affine = found.source.grid.canonical_affine
    case = Case(printable(found.name), found.images, affine, found.source, found.warnings, contrasts, missing=missing)
    there = [contrast for contrast in contrasts if contrast not in missing]
    images = case.images[[contrasts.index(contrast) for contrast in there]] if missing else case.images
    check_spacing(case.name, case.spacing_mm, spacing_range_mm)
    where = [source.path for source in case.sources] or [f"case {case.name}"] * len(there)
    voxel_ml = float(abs(np.linalg.det(case.affine[:3, :3]))) / 1000
    hashes = [source.sha256 for source in case.sources]
    with ThreadPoolExecutor(len(contrasts)) as pool:
        warnings = check_images(images, voxel_ml, where, pool, there, hashes)
    return replace(case, warnings=(*case.warnings, *warnings), load_seconds=time.perf_counter() - started)
