"""Images in world space, and the one resampling from any grid to any other, through SimpleITK.

World is RAS+ in millimetres, as NIfTI has it; a rigid transform is a float64 (4, 4) matrix of world coordinates.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import MissingExtraError

Affine = npt.NDArray[np.float64]
Volume = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to the world of ITK and DICOM and back."""
IDENTITY = np.eye(4)


@dataclass(frozen=True, eq=False)
class Space:
    """Voxels in the world: shape, and affine (4, 4) float64 from voxel indices to RAS+ mm."""

    shape: Shape
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbours along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """World places (8, 3) of the outer corners, half a voxel beyond the centres of the corner voxels."""
        ends = np.array(list(product(*((-0.5, size - 0.5) for size in self.shape))))
        return moved(ends, self.affine)

    def cropped(self, start: tuple[int, int, int], shape: Shape) -> "Space":
        """The voxels from `start` on; start and shape may reach outside."""
        affine = self.affine.copy()
        affine[:3, 3] = moved(np.array([start], float), self.affine)[0]
        return Space(shape, affine)


def itk() -> Any:
    """SimpleITK. Raises MissingExtraError without it."""
    try:
        import SimpleITK
    except ImportError:
        raise MissingExtraError("Preparing raw scans", "SimpleITK", "prepare") from None
    return SimpleITK


def moved(points: npt.NDArray[np.floating], matrix: Affine) -> npt.NDArray[np.float64]:
    """Points (N, 3) through a matrix (4, 4)."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3], np.float64)


def upright_space(corners: npt.NDArray[np.float64], spacing_mm: float = 1.0) -> Space:
    """The smallest grid of the standard orientation that holds all of `corners` (N, 3).

    Its axes are those of the world, storage L, P, S as in BraTS; voxels are cubes of `spacing_mm`.
    """
    lps = corners * (-1.0, -1.0, 1.0)
    low, high = lps.min(axis=0), lps.max(axis=0)
    x, y, z = (max(1, int(np.ceil(extent / spacing_mm - 1e-6))) for extent in high - low)
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    middle = (low + high) / 2 - spacing_mm * (np.array([x, y, z]) - 1) / 2
    affine[:3, 3] = middle * (-1.0, -1.0, 1.0)
    return Space((x, y, z), affine)


def to_itk(voxels: npt.NDArray[Any], affine: Affine) -> Any:
    """An array (X, Y, Z) as a float32 image of SimpleITK."""
    sitk = itk()
    matrix = LPS @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(voxels, np.float32).T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def to_itk_transform(matrix: Affine) -> Any:
    """A world matrix (4, 4) as an affine transform of SimpleITK."""
    sitk = itk()
    lps = LPS @ matrix @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def resample(
    voxels: npt.NDArray[Any], affine: Affine, onto: Space, to_source: Affine = IDENTITY, *, outside: float = 0.0
) -> Volume:
    """An array (X, Y, Z) on another grid, float32, by linear interpolation in one step.

    to_source: from the world of `onto` to the world of the array. Where a voxel of `onto` is larger than those of the
    array it gets the mean of several samples over its extent, so that a thick slice sees all that lies in it. Up to
    half a voxel beyond the array its border continues; beyond that is `outside`.
    """
    sitk = itk()
    source = Space((voxels.shape[0], voxels.shape[1], voxels.shape[2]), affine)
    times = _samples_per_voxel(source, onto, to_source)
    fine = _subdivided(onto, times)
    matrix = LPS @ fine.affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    done = sitk.Resample(
        to_itk(voxels, affine),
        fine.shape,
        to_itk_transform(to_source),
        sitk.sitkLinear,
        matrix[:3, 3].tolist(),
        spacing.tolist(),
        (matrix[:3, :3] / spacing).ravel().tolist(),
        outside,
        sitk.sitkFloat32,
    )
    values = sitk.GetArrayViewFromImage(done).T
    if times != (1, 1, 1):
        x, y, z = onto.shape
        values = values.reshape(x, times[0], y, times[1], z, times[2]).mean(axis=(1, 3, 5))
    return np.ascontiguousarray(values, np.float32)


def covered(source: Space, onto: Space, to_source: Affine = IDENTITY) -> npt.NDArray[np.bool_]:
    """Which voxel centres of `onto` (X, Y, Z) lie in a voxel of `source`."""
    matrix = np.linalg.inv(source.affine) @ to_source @ onto.affine
    inside = np.ones(onto.shape, bool)
    i, j, k = np.ogrid[tuple(slice(0, size) for size in onto.shape)]
    for row, size in zip(matrix[:3], source.shape, strict=True):
        place = row[0] * i + row[1] * j + row[2] * k
        place += row[3]
        inside &= place >= -0.5
        inside &= place < size - 0.5
    return inside


def _samples_per_voxel(source: Space, onto: Space, to_source: Affine) -> Shape:
    """How many samples along each axis of `onto` are about one voxel of `source` apart; 1 up to half as large again."""
    steps = np.linalg.inv(source.affine[:3, :3]) @ to_source[:3, :3] @ onto.affine[:3, :3]
    x, y, z = (max(1, int(np.ceil(extent - 0.5))) for extent in np.abs(steps).max(axis=0))
    return x, y, z


def _subdivided(space: Space, times: Shape) -> Space:
    """Each voxel cut into `times` parts along its axes."""
    x, y, z = (size * often for size, often in zip(space.shape, times, strict=True))
    affine = space.affine @ np.diag([*(1.0 / np.array(times)), 1.0])
    affine[:3, 3] = moved(np.array([[0.5 / often - 0.5 for often in times]]), space.affine)[0]
    return Space((x, y, z), affine)
