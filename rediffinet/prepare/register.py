"""Rigid co-registration of one contrast to another with SimpleITK: mutual information, coarse to fine.

Measured once against `picsl-greedy` on three pairs with 5 mm slices, 15 mm and 9° apart: errors of 0.3 to 0.9 mm with
either, SimpleITK in a third of the time, and greedy needs it anyway.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.prepare.space import IDENTITY, LPS, Affine, Space, itk, moved, resample, to_itk

LEVELS = ((4.0, 2.0), (2.0, 1.0), (1.0, 0.5))
"""Voxels and first step in mm, coarse to fine."""
SAMPLES = 80_000
"""Voxels that are looked at, on each level."""
COMPARE_MM = 2.0
"""Distance of the voxels over which the similarity is told."""
BINS = 32
ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class Registration:
    """How to get from the fixed image's world to the moving one's, and how alike they are there and were before.

    Similarity is the normalised mutual information of Studholme et al. 1999, from 1 (nothing in common) to 2.
    moved_mm: how far a point of the head goes on average. degrees: the angle of the turn.
    """

    to_moving: Affine
    before: float
    after: float
    moved_mm: float
    degrees: float


@dataclass(frozen=True, eq=False)
class Fixed:
    """An image to register others to, with what all of them need of it.

    levels: the image at each of `LEVELS`. head: where to compare, or None. space, inside, ranks: the voxels over which
    the similarity is told, which of them are in the head, and the bins of their values.
    """

    image: Any
    levels: tuple[Any, ...]
    head: Any
    space: Space
    inside: npt.NDArray[np.bool_]
    ranks: npt.NDArray[np.intp]


def fixed_image(voxels: npt.NDArray[Any], affine: Affine, head: Any = None) -> Fixed:
    """An image (X, Y, Z) with its affine (4, 4) to register others to.

    head: (mask bool (X, Y, Z), affine) of where in its world to compare; None is everywhere.
    """
    sitk = itk()
    image = to_itk(voxels, affine)
    strides = [max(1, round(COMPARE_MM / size)) for size in _space(voxels, affine).spacing_mm]
    thinned = voxels[tuple(slice(None, None, stride) for stride in strides)]
    space = _space(thinned, affine @ np.diag([*strides, 1]))
    inside = np.ones(space.shape, bool) if head is None else resample(head[0], head[1], space) > 0.5
    return Fixed(
        image,
        tuple(_shrunk(sitk, image, millimetres) for millimetres, _ in LEVELS),
        None if head is None else sitk.Cast(to_itk(*head), sitk.sitkUInt8),
        space,
        inside,
        _ranks(thinned[inside]),
    )


def register(fixed: Fixed, moving: npt.NDArray[Any], moving_affine: Affine) -> Registration:
    """Rigidly register an image (X, Y, Z) with its affine (4, 4).

    The start is what the headers say, or the two centres of mass laid on each other, whichever is more alike.
    """
    sitk = itk()
    image = to_itk(moving, moving_affine)
    levels = [_shrunk(sitk, image, millimetres) for millimetres, _ in LEVELS]
    transform = _start(sitk, fixed, image, levels[0])
    for (millimetres, step), fixed_level, moving_level in zip(LEVELS, fixed.levels, levels, strict=True):
        method = _method(sitk, fixed.head, min(1.0, SAMPLES / fixed_level.GetNumberOfPixels()))
        method.SetOptimizerAsRegularStepGradientDescent(step, 1e-3 * millimetres, ITERATIONS, 0.5)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(fixed_level, moving_level)
    return _compared(fixed, moving, moving_affine, _matrix(transform))


def _compared(fixed: Fixed, moving: npt.NDArray[Any], moving_affine: Affine, to_moving: Affine) -> Registration:
    """What a given transform does to the similarity, over the fixed image's voxels in the head."""
    before, after = (
        _information(fixed.ranks, _ranks(resample(moving, moving_affine, fixed.space, matrix)[fixed.inside]))
        for matrix in (IDENTITY, to_moving)
    )
    corners = fixed.space.corners
    cosine = (np.trace(to_moving[:3, :3]) - 1) / 2
    return Registration(
        to_moving=to_moving,
        before=before,
        after=after,
        moved_mm=float(np.linalg.norm(moved(corners, to_moving) - corners, axis=1).mean()),
        degrees=float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))),
    )


def similarity(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Normalised mutual information (H(A) + H(B)) / H(A, B) of two arrays of the same shape, 32 equal-count bins each.

    1 for nothing in common, 2 for a one-to-one relation.
    """
    return _information(_ranks(one), _ranks(other))


def _information(one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> float:
    counts = np.bincount(BINS * one + other, minlength=BINS * BINS).reshape(BINS, BINS)
    joint = counts / max(counts.sum(), 1.0)
    together = _entropy(joint)
    return 1.0 if together == 0 else (_entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))) / together


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])) if values.size else np.zeros(0)
    return np.searchsorted(edges, values.ravel(), side="right")


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    held = shares[shares > 0]
    return float(-(held * np.log(held)).sum())


def _space(voxels: npt.NDArray[Any], affine: Affine) -> Space:
    return Space((voxels.shape[0], voxels.shape[1], voxels.shape[2]), affine)


def _method(sitk: Any, mask: Any, share: float) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    if mask is not None:
        method.SetMetricFixedMask(mask)
    return method


def _start(sitk: Any, fixed: Fixed, moving: Any, coarse: Any) -> Any:
    """The better of: as the headers say, and centre of mass on centre of mass; turns go about the fixed centre."""
    centred = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed.image, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    as_stored = sitk.Euler3DTransform()
    as_stored.SetCenter(centred.GetCenter())
    best, least = centred, np.inf
    for candidate in (as_stored, centred):
        method = _method(sitk, fixed.head, 1.0)
        method.SetInitialTransform(candidate, inPlace=False)
        try:
            value = method.MetricEvaluate(fixed.levels[0], coarse)
        except RuntimeError:  # the images do not overlap there
            continue
        if value < least:
            best, least = candidate, value
    return best


def _shrunk(sitk: Any, image: Any, millimetres: float) -> Any:
    """Smoothed and thinned out along the axes whose voxels are finer; thick slices stay as they are."""
    spacing = image.GetSpacing()
    factors = [max(1, round(millimetres / size)) for size in spacing]
    if max(factors) == 1:
        return image
    for axis, factor in enumerate(factors):
        if factor > 1 and image.GetSize()[axis] >= 4:  # the filter needs four voxels
            image = sitk.RecursiveGaussian(image, 0.5 * millimetres, direction=axis)
    return sitk.Shrink(image, factors)


def _matrix(transform: Any) -> Affine:
    """An Euler transform of SimpleITK as a matrix (4, 4) of the RAS+ world."""
    matrix, centre = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return np.asarray(LPS @ matrix @ LPS, np.float64)
