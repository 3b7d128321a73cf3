"""Change of voxel size along the axes of a volume: area means on the way down, linear interpolation on the way up.

Both grids share their first outer edge, not their first voxel centre, so that a coarse voxel covers whole fine ones and
going down and up again shifts nothing. One small dense matrix per axis: exact for any ratio, and fast through BLAS. The
mean of two neighbours, of twice the voxel size, is faster still.
"""

from math import ceil

import numpy as np
import numpy.typing as npt

from rediffinet.method.windows import Shape

Volume = npt.NDArray[np.float32]
Spacing = tuple[float, float, float]
MILLIMETRE: Spacing = (1.0, 1.0, 1.0)
"""What the BraTS preprocessing makes of every image."""
SAME = 0.01
"""Spacings whose ratio is this close to 1 are the same: a head of 240 voxels is off by 2 at most."""


def same_spacing(spacing_mm: Spacing, other_mm: Spacing) -> bool:
    """Whether two spacings are too close to be worth resampling."""
    return all(abs(a / b - 1.0) <= SAME for a, b in zip(spacing_mm, other_mm, strict=True))


def resampled_shape(shape: Shape, spacing_mm: Spacing, wanted_mm: Spacing) -> Shape:
    """Voxels that cover a volume of `shape` at another spacing; the last of an axis may stick out."""
    x, y, z = (max(1, ceil(n * a / b - 1e-6)) for n, a, b in zip(shape, spacing_mm, wanted_mm, strict=True))
    return x, y, z


def resample(volume: npt.NDArray[np.floating], spacing_mm: Spacing, wanted_mm: Spacing, shape: Shape) -> Volume:
    """A volume (…, X, Y, Z) at `spacing_mm` on a grid of `shape` voxels of `wanted_mm`, float32 (…, *shape).

    Beyond the volume its border continues.
    """
    out = np.ascontiguousarray(volume, np.float32)
    lead = out.shape[:-3]
    halved = tuple((size + 1) // 2 for size in out.shape[-3:])
    if shape == halved and all(wanted == 2.0 * have for wanted, have in zip(wanted_mm, spacing_mm, strict=True)):
        for axis in (-3, -2, -1):
            out = _halved(out, axis)
        return out
    x, y, z = (
        axis_weights(out.shape[len(lead) + axis], wanted_mm[axis] / spacing_mm[axis], shape[axis]) for axis in range(3)
    )
    # Each product leaves its result in the order of the volume: nothing is transposed in between.
    out = np.matmul(x, out.reshape(*lead, out.shape[-3], -1)).reshape(*lead, shape[0], *out.shape[-2:])
    out = np.matmul(y, out)
    return np.asarray(np.matmul(out.reshape(*lead, -1, out.shape[-1]), z.T).reshape(*lead, *shape), np.float32)


def _halved(volume: Volume, axis: int) -> Volume:
    """Means of two neighbours along an axis, an odd last voxel by itself: the same bits as by the matrix."""
    along = np.moveaxis(volume, axis, 0)
    means = along[::2] * np.float32(0.5)
    means[: len(along) // 2] += along[1::2] * np.float32(0.5)
    means[len(along) // 2 :] *= np.float32(2.0)
    return np.ascontiguousarray(np.moveaxis(means, 0, axis))


def axis_weights(size: int, ratio: float, wanted: int) -> npt.NDArray[np.float32]:
    """Matrix (wanted, size) that takes `size` samples to `wanted` ones, each `ratio` old voxels wide; rows sum to 1."""
    starts = np.arange(wanted)[:, None] * ratio
    voxels = np.arange(size)[None, :]
    if ratio > 1.0:
        starts = np.minimum(starts, size - 1.0)  # a row past the end repeats the last voxel
        weights = np.clip(np.minimum(starts + ratio, voxels + 1.0) - np.maximum(starts, voxels), 0.0, None)
    else:
        centres = np.clip(starts + 0.5 * ratio - 0.5, 0.0, size - 1.0)
        weights = np.clip(1.0 - np.abs(centres - voxels), 0.0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
