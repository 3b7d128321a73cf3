"""Metrics of two masks (X, Y, Z): `a` the prediction, `b` the reference, not 0 inside."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError, LabelError
from rediffinet.ext import SurfaceDistances, directions, surface_distances
from rediffinet.metrics.directed import interpolated, larger_percentile, weighted
from rediffinet.metrics.reducers import (
    pooled_percentile,
    share_within,
    weighted_average,
)

Mask = npt.NDArray[Any]
Spacing = tuple[float, float, float]
Definition = Literal["surface", "max", "pooled"]


def _surface(a: Mask, b: Mask, spacing_mm: Spacing, percent: float) -> float:
    return larger_percentile(*directions(a, b, spacing_mm), percent, weighted)


def _max(a: Mask, b: Mask, spacing_mm: Spacing, percent: float) -> float:
    return larger_percentile(*directions(a, b, spacing_mm, elements="voxels"), percent, interpolated)


def _pooled(a: Mask, b: Mask, spacing_mm: Spacing, percent: float) -> float:
    return pooled_percentile(surface_distances(a, b, spacing_mm, elements="voxels"), percent)


_DEFINITIONS: dict[str, Callable[[Mask, Mask, Spacing, float], float]] = {
    "surface": _surface,
    "max": _max,
    "pooled": _pooled,
}


def dice(a: Mask, b: Mask) -> float:
    """Dice overlap 2|a ∩ b| / (|a| + |b|); two empty masks overlap fully, 1.

    Raises:
        LabelError: different or not three-dimensional shapes.

    >>> a, b = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    >>> a[2:6, 2:6, 2:6] = b[3:6, 2:6, 2:6] = 1
    >>> round(dice(a, b), 3)
    0.857
    """
    check_pair(a, b)
    inside_a, inside_b = (mask if mask.dtype == np.bool_ else mask != 0 for mask in (a, b))
    size = int(np.count_nonzero(inside_a)) + int(np.count_nonzero(inside_b))
    return 2.0 * int(np.count_nonzero(inside_a & inside_b)) / size if size else 1.0


def hd95(a: Mask, b: Mask, spacing_mm: Spacing = (1.0, 1.0, 1.0), definition: Definition = "surface") -> float:
    """95th-percentile Hausdorff distance in mm; see `hausdorff`.

    >>> a, b = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    >>> a[2:6, 2:6, 2:6] = b[3:6, 2:6, 2:6] = 1
    >>> hd95(a, b, spacing_mm=(2.0, 1.0, 1.0), definition="max")
    2.0
    """
    return hausdorff(a, b, spacing_mm, 95.0, definition)


def hausdorff(
    a: Mask,
    b: Mask,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
    percent: float = 100.0,
    definition: Definition = "surface",
) -> float:
    """Hausdorff distance in mm at a percentile of the surface distances.

    Three definitions are in use, and differ by millimetres on the same pair; say which one a number is of:

    - "surface": surface elements weighted by area, the larger of the two directed percentiles: DeepMind
      surface-distance, BraTS-2023.
    - "max": border voxels, the larger of the two directed percentiles: MONAI.
    - "pooled": border voxels, one percentile over both directions: MedPy, and so the Re-DiffiNet paper.

    0 where both masks are empty, inf where one is, under every definition (MONAI has NaN, MedPy raises).

    Raises:
        LabelError: different or not three-dimensional shapes, a spacing not above 0.
        ConfigError: unknown definition, percent outside 0…100.
    """
    if definition not in _DEFINITIONS:
        raise ConfigError(f"The HD95 definition is {definition!r}.\nExpected one of {', '.join(_DEFINITIONS)}.")
    if not 0 <= percent <= 100:
        raise ConfigError(f"The percentile is {percent}.\nExpected a number from 0 to 100.")
    check_pair(a, b)
    check_spacing(spacing_mm)
    return _DEFINITIONS[definition](a, b, spacing_mm, percent)


def average_surface_distance(a: Mask, b: Mask, spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> float:
    """Mean distance in mm of both surfaces to each other, elements weighted by area; 0 both empty, inf one empty.

    Raises:
        LabelError: different or not three-dimensional shapes, a spacing not above 0.
    """
    return weighted_average(_distances(a, b, spacing_mm))


def normalised_surface_dice(a: Mask, b: Mask, tolerance_mm: float, spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> float:
    """Share of the two surfaces that lies within tolerance_mm of the other (DeepMind); 1 both empty, 0 one empty.

    Raises:
        LabelError: different or not three-dimensional shapes, a spacing not above 0.
        ConfigError: negative tolerance.
    """
    if not tolerance_mm >= 0:
        raise ConfigError(f"The tolerance is {tolerance_mm} mm.\nExpected 0 or more.")
    return share_within(_distances(a, b, spacing_mm), tolerance_mm)


def check_pair(a: Mask, b: Mask) -> None:
    """Raise LabelError unless the two are three-dimensional arrays of one shape."""
    if a.ndim != 3 or a.shape != b.shape:
        message = f"The prediction has shape {a.shape} and the reference {b.shape}.\nExpected one shape (X, Y, Z)."
        raise LabelError(message)


def check_spacing(spacing_mm: Spacing) -> None:
    """Raise LabelError unless there are three finite voxel sizes above 0."""
    if len(spacing_mm) != 3 or not all(0 < step < np.inf for step in spacing_mm):
        message = f"The voxel spacing is {tuple(spacing_mm)} mm.\nExpected three numbers above 0."
        raise LabelError(message)


def _distances(a: Mask, b: Mask, spacing_mm: Spacing) -> SurfaceDistances:
    check_pair(a, b)
    check_spacing(spacing_mm)
    return surface_distances(a, b, spacing_mm)
