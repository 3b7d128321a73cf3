"""Smooth random fields and separable resampling in plain numpy.

Only element-wise arithmetic is used (no BLAS), so a field does not depend on the number of threads.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Shape = tuple[int, int, int]


def streams(seed: int, index: int, count: int) -> list[np.random.Generator]:
    """Independent Philox generators of case `index`; they depend on (seed, index) alone, not on other cases."""
    root = np.random.SeedSequence([seed, index])
    return [np.random.Generator(np.random.Philox(child)) for child in root.spawn(count)]


def _apply_taps(field: Field, axis: int, starts: NDArray[np.intp], weights: NDArray[np.float32]) -> Field:
    """Sum of weights[t] * field[starts + t] along `axis`, indices clamped to the field."""
    last = field.shape[axis] - 1
    column = [1, 1, 1]
    column[axis] = len(starts)
    out: Field | None = None
    for tap in range(weights.shape[0]):
        part = np.take(field, np.clip(starts + tap, 0, last), axis=axis)
        part *= weights[tap].reshape(column)
        out = part if out is None else np.add(out, part, out=out)
    assert out is not None
    return out


def _positions(n_in: int, n_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Corner-aligned sample positions: integer part and fraction."""
    at = np.linspace(0.0, n_in - 1.0, n_out)
    base = np.minimum(np.floor(at).astype(np.intp), max(n_in - 2, 0))
    return base, (at - base).astype(np.float32)


def resample(field: Field, shape: Shape) -> Field:
    """Separable linear interpolation onto `shape`; the corner voxels of both grids coincide."""
    for axis in (2, 1, 0):  # the first axis last: its slices are contiguous, and it is the biggest pass
        if field.shape[axis] != shape[axis]:
            base, t = _positions(field.shape[axis], shape[axis])
            field = _apply_taps(field, axis, base, np.stack([1 - t, t]))
    return field


def smooth_noise(rng: np.random.Generator, shape: Shape, spacing: float) -> Field:
    """Gaussian noise of about unit variance, band-limited: cubic B-splines on knots `spacing` voxels apart."""
    knots = [max(int(np.ceil((n - 1) / spacing)) + 1, 2) for n in shape]
    field = rng.standard_normal([n + 2 for n in knots], dtype=np.float32)
    for axis in (2, 1, 0):
        n = shape[axis]
        at = np.arange(n) / spacing
        base = np.minimum(np.floor(at).astype(np.intp), knots[axis] - 2)
        t = (at - base).astype(np.float32)
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        field = _apply_taps(field, axis, base, weights.astype(np.float32))
    # A cubic B-spline lattice of unit normals has variance (151/315) per axis, averaged over positions.
    return field * np.float32((315 / 151) ** 1.5)


def sample(field: Field, coords: Sequence[Field]) -> Field:
    """Trilinear value of `field` at voxel coordinates, three arrays of one shape; clamped at the border."""
    base, parts = [], []
    for at, n in zip(coords, field.shape, strict=True):
        at = np.clip(at, 0, n - 1.001)
        floor = at.astype(np.int32)
        base.append(floor)
        parts.append(at - floor)
    flat = field.ravel()
    _, ny, nz = field.shape
    corner = (base[0] * ny + base[1]) * nz + base[2]
    tx, ty, tz = parts
    out = np.zeros(coords[0].shape, np.float32)
    for dx, wx in ((0, 1 - tx), (1, tx)):
        for dy, wy in ((0, 1 - ty), (1, ty)):
            wxy = wx * wy
            for dz, wz in ((0, 1 - tz), (1, tz)):
                out += wxy * wz * flat[corner + ((dx * ny + dy) * nz + dz)]
    return out


def blur(field: Field, sigma: float | Sequence[float]) -> Field:
    """Gaussian blur, `sigma` in voxels (one for all axes, or one each); the edge value goes on outside."""
    sigmas = [sigma] * 3 if isinstance(sigma, int | float) else list(sigma)
    for axis, s in enumerate(sigmas):
        if s < 0.2:
            continue
        radius = max(1, round(2.3 * s))
        kernel = np.exp(-0.5 * (np.arange(radius + 1) / s) ** 2)
        kernel = (kernel / (kernel[0] + 2 * kernel[1:].sum())).astype(np.float32)
        n = field.shape[axis]
        padded = np.pad(field, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
        out = field * kernel[0]
        for offset in range(1, radius + 1):
            pair = _along(padded, axis, radius - offset, n) + _along(padded, axis, radius + offset, n)
            pair *= kernel[offset]
            out += pair
        field = out
    return field


def _along(field: Field, axis: int, start: int, count: int) -> Field:
    """View of `count` planes from `start` along `axis`."""
    return field[tuple(slice(start, start + count) if a == axis else slice(None) for a in range(3))]


def thick_slices(field: Field, thickness: int) -> Field:
    """Average `thickness` slices along z and interpolate back, as a 2-D acquisition brought to 1 mm does."""
    if thickness < 2:
        return field
    n = field.shape[2]
    count = max(n // thickness, 2)
    edges = np.linspace(0, n, count + 1).astype(np.intp)
    slabs = np.stack([field[:, :, a:b].mean(axis=2) for a, b in itertools.pairwise(edges)], axis=2)
    return resample(slabs.astype(np.float32), (field.shape[0], field.shape[1], n))


def ramp(distance: NDArray[Any], width: float) -> Field:
    """0 → 1 over `width` around distance 0: the partial volume of a boundary."""
    out = distance * np.float32(1 / width)
    out += np.float32(0.5)
    return np.asarray(np.clip(out, 0, 1, out=out), np.float32)


def relu(values: NDArray[Any]) -> Field:
    """max(values, 0)."""
    return np.asarray(np.maximum(values, np.float32(0)), np.float32)
