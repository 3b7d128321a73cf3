"""Voxel grids: from any storage order to the canonical one and exactly back, without resampling.

Canonical is the BraTS storage: first axis towards the left, second towards the back, third upwards (LPS), whose affine
is close to diag(−1, −1, 1). Reorienting only permutes and flips axes, so an oblique grid stays oblique.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel import orientations

from rediffinet.errors import CaseError

CANONICAL = ("L", "P", "S")
Affine = npt.NDArray[np.float64]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid a case was stored on, and the way from there to canonical and back.

    `affine` (4, 4) float64 takes voxel indices to world millimetres (RAS+, as NIfTI has it).
    """

    shape: Shape
    affine: Affine

    @cached_property
    def orientation(self) -> npt.NDArray[np.int64]:
        """(3, 2): for each stored axis the canonical axis it becomes, and −1 where it is flipped."""
        stored = orientations.io_orientation(self.affine)
        return np.asarray(orientations.ornt_transform(stored, orientations.axcodes2ornt(CANONICAL)), np.int64)

    @cached_property
    def canonical_affine(self) -> Affine:
        """Affine (4, 4) float64 of the canonical array."""
        return np.asarray(self.affine @ orientations.inv_ornt_aff(self.orientation, self.shape), np.float64)

    @property
    def canonical_shape(self) -> Shape:
        """Shape of the canonical array."""
        x, y, z = (self.shape[axis] for axis in np.argsort(self.orientation[:, 0]))
        return x, y, z

    @property
    def canonical_spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbours along each canonical axis."""
        return spacing_mm(self.canonical_affine)


def check_affine(affine: Affine, where: str) -> None:
    """Raise CaseError unless the affine (4, 4) is finite and invertible."""
    if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-9 and (affine[3] == (0, 0, 0, 1)).all():
        return
    message = f"The affine of {where} places no voxels in space:\n{affine}\nExpected a finite, invertible one (4 × 4)."
    raise CaseError(message)


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Distance in mm between neighbouring voxels along each axis."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def to_canonical(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """Array (…, X, Y, Z) in the stored order → a view of it in canonical order."""
    lead = array.ndim - 3
    axes = np.argsort(grid.orientation[:, 0])
    return _flip(array, grid).transpose(*range(lead), *(lead + int(axis) for axis in axes))


def to_input_grid(array: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    """Array (…, X, Y, Z) in canonical order → a view of it in the stored order: the inverse of `to_canonical`."""
    lead = array.ndim - 3
    stored = array.transpose(*range(lead), *(lead + int(axis) for axis in grid.orientation[:, 0]))
    return _flip(stored, grid)


def _flip(stored: npt.NDArray[Any], grid: Grid) -> npt.NDArray[Any]:
    index: tuple[Any, ...] = (..., *(slice(None, None, int(flip)) for flip in grid.orientation[:, 1]))
    flipped: npt.NDArray[Any] = stored[index]
    return flipped


GRID_SAME_MM = 1e-2
"""Distance at the corners up to which grids are the same: float32 headers of one grid differ by up to 1e-4 mm."""
GRID_CLOSE_VOXELS = 0.1
"""Distance at the corners, in voxels, up to which grids are taken for one that was rounded on its way."""


def grid_distance_mm(grid: Grid, other: Grid) -> float:
    """How far apart two grids put the same corner voxel at most, whatever their storage order; infinite for shapes
    that differ.
    """
    if grid.canonical_shape != other.canonical_shape:
        return float("inf")
    return corner_distance_mm(grid.canonical_shape, grid.canonical_affine, other.canonical_affine)


def close_enough_mm(grid: Grid) -> float:
    """The largest distance in mm at a corner at which another grid is taken for this one."""
    return max(GRID_SAME_MM, GRID_CLOSE_VOXELS * min(spacing_mm(grid.affine)))


def corner_distance_mm(shape: Shape, affine: Affine, other: Affine) -> float:
    """How far apart, in mm, two affines put the same corner voxel of an array at most."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    return float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())
