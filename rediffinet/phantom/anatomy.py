"""Shapes of a healthy brain as implicit surfaces in millimetres: outline, folds, ventricles, deep nuclei.

Coordinates (mm of a full-size brain): x lateral, y anterior, z superior, origin in the middle of the cerebrum.
A depth is positive inside. A *sheet* is a signed distance whose zero is a fold.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from rediffinet.phantom.fields import Field, Shape, ramp, relu, sample, smooth_noise

BOX_LOW_MM = np.array([-72.0, -90.0, -80.0])
BOX_MM = np.array([144.0, 180.0, 142.0])  # extent of the box that holds every brain


@dataclass(frozen=True)
class BrainGrid:
    """Voxels of the brain box: `shape` voxels, `scale` voxels per mm of a full-size brain."""

    shape: Shape
    scale: float

    def axes(self) -> tuple[Field, Field, Field]:
        """x, y, z in mm as open (broadcasting) arrays; the storage runs left, posterior, superior (LPS)."""
        x, y, z = (low + np.arange(n) / self.scale for low, n in zip(BOX_LOW_MM, self.shape, strict=True))
        return (
            x[:, None, None].astype(np.float32),
            y[::-1][None, :, None].astype(np.float32),
            z[None, None, :].astype(np.float32),
        )

    def coarse(self) -> "BrainGrid":
        """Half the resolution where that is still fine enough to draw a gyrus, with the same corners."""
        if self.scale < 0.75:
            return self
        shape = tuple((n + 1) // 2 for n in self.shape)
        return BrainGrid((shape[0], shape[1], shape[2]), self.scale * (shape[1] - 1) / (self.shape[1] - 1))


@dataclass(frozen=True)
class Head:
    """Hull of one brain on the coarse grid: individual coordinates and depths below the surface (mm)."""

    grid: BrainGrid
    coords: tuple[Field, Field, Field]
    cerebrum: Field
    cerebellum: Field
    stem: Field
    radius_ratio: Field
    """Radius of the cerebral surface over the radius of the voxel: follows folds inwards along rays."""

    @property
    def depth(self) -> Field:
        """Depth below the surface of the whole brain, mm."""
        return np.maximum(np.maximum(self.cerebrum, self.cerebellum), self.stem)


def _ellipsoid(p: tuple[Field, Field, Field], centre: tuple[float, ...], half: tuple[float, ...]) -> Field:
    """Depth below an ellipsoid's surface, mm, about right near the surface."""
    u = [(c - o) / h for c, o, h in zip(p, centre, half, strict=True)]
    r = np.sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
    return np.asarray((1 - r) * np.float32(min(half)), np.float32)


def _tube(p: tuple[Field, Field, Field], points: list[tuple[float, float, float, float]]) -> Field:
    """Depth below the surface of a chain of tapering capsules through points (x, y, z, radius)."""
    best: Field | None = None
    for start, end in itertools.pairwise(points):
        a, b = np.array(start, np.float32), np.array(end, np.float32)
        axis = b[:3] - a[:3]
        rel = [c - o for c, o in zip(p, a[:3], strict=True)]
        t = np.clip(sum(r * d for r, d in zip(rel, axis, strict=True)) / np.float32(axis @ axis), 0, 1)
        gap = np.sqrt(sum((r - t * d) ** 2 for r, d in zip(rel, axis, strict=True)))
        depth = a[3] + t * (b[3] - a[3]) - gap
        best = depth if best is None else np.maximum(best, depth)
    assert best is not None
    return np.asarray(best, np.float32)


def _smooth_max(a: Field, b: Field, k: float) -> Field:
    h = relu(np.float32(k) - np.abs(a - b)) / np.float32(k)
    return np.asarray(np.maximum(a, b) + h * h * np.float32(k / 4), np.float32)


def make_head(rng: np.random.Generator, grid: BrainGrid) -> Head:
    """Draw the outline of one brain: size, proportions and a noise-deformed surface."""
    grid = grid.coarse()
    size = rng.uniform([0.90, 0.90, 0.94], [1.01, 1.01, 1.02]).astype(np.float32)
    x, y, z = (np.broadcast_to(a, grid.shape) / s for a, s in zip(grid.axes(), size, strict=True))
    bend = [
        3.0 * smooth_noise(rng, grid.shape, 45 * grid.scale) + 0.9 * smooth_noise(rng, grid.shape, 14 * grid.scale)
        for _ in range(3)
    ]
    p = (x + bend[0], y + bend[1], z + bend[2])
    x, y, z = p
    side = np.abs(x)
    lateral = (side, y, z)

    half_x = 67 * (1 - 0.11 * y / 85 - 0.10 * relu(y / 85) ** 2)
    half_z = np.where(z > 0, np.float32(61), 36 + 4 * ramp(-y - 20, 60))
    f = ((side / half_x) ** 2.35 + np.abs(y / 85) ** 2.35 + np.abs(z / half_z) ** 2.35) ** (1 / 2.35) + 1e-3
    radius = np.sqrt(x * x + y * y + z * z)
    cerebrum = radius / f - radius
    temporal = _ellipsoid(lateral, (38.0, 7.0, -30.0), (25.5, 43.0, 26.0))
    cerebrum = _smooth_max(cerebrum, temporal * 1.2, 6.0)

    notch = 5 * np.exp(-((x / 7) ** 2)) * ramp(-y - 62, 20)
    cerebellum = _ellipsoid(lateral, (19.0, -45.0, -48.5), (35.0, 31.0, 25.0)) - notch
    stem = _tube(p, [(0, -8, -12, 14), (0, -10, -40, 16), (0, -24, -62, 9.5), (0, -30, -95, 8)])
    ratio = np.clip(1 / f, 0.8, 6)
    return Head(grid, p, *(np.asarray(a, np.float32) for a in (cerebrum, cerebellum, stem, ratio)))


def _sheet(field: Field, scale: float) -> Field:
    """Turn a smooth field into the signed distance (mm) to its zero surface, to first order."""
    slopes = np.gradient(field)
    steepness = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2) * np.float32(scale)
    floor = np.float32(0.45) * steepness.mean()
    return np.asarray(np.clip(field / np.maximum(steepness, floor), -12, 12), np.float32)


def folds(rng: np.random.Generator, head: Head, knots_mm: float, follow: float) -> Field:
    """Sheets perpendicular to the surface: a noise pattern carried inwards along rays."""
    grid = head.grid
    noise = smooth_noise(rng, grid.shape, knots_mm * grid.scale)
    stretch = 1 + np.float32(follow) * (head.radius_ratio - 1)
    centre = -BOX_LOW_MM * grid.scale
    centre[1] = grid.shape[1] - 1 - centre[1]
    index = [np.arange(n, dtype=np.float32) - np.float32(c) for n, c in zip(grid.shape, centre, strict=True)]
    x, y, z = np.meshgrid(*index, indexing="ij", sparse=True)
    coords = [a * stretch + np.float32(c) for a, c in zip((x, y, z), centre, strict=True)]
    return _sheet(sample(noise, coords), grid.scale)


def ventricle_depth(p: tuple[Field, Field, Field], size: float) -> Field:
    """Depth (mm) in the lateral, third and fourth ventricles; `size` scales their width."""
    side = (np.abs(p[0]), p[1], p[2])
    body = [(9, 33, 1, 3.2), (8, 22, 5, 4.2), (8, 2, 14, 3.6), (13, -20, 14, 4.0), (23, -36, 6, 5.6), (23, -56, 2, 2.0)]
    horn = [(24, -36, 4, 4.5), (33, -20, -14, 2.6), (31, 2, -23, 2.2)]
    third = [(0, 8, -8, 1.6), (0, -4, -2, 1.9), (0, -22, -4, 1.6)]
    fourth = [(0, -26, -30, 0.8), (0, -31, -42, 4.0), (0, -32, -54, 1.0)]
    depth: Field | None = None
    for chain in (body, horn, third, fourth):
        part = _tube(side, [(a, b, c, d * size) for a, b, c, d in chain])
        depth = part if depth is None else np.maximum(depth, part)
    assert depth is not None
    return depth


def sylvian_distance(side: Field, y: Field, z: Field, wobble: Field) -> Field:
    """Distance to the lateral fissure, mm: a slanted cleft from the side, and the cleft along the insula."""
    height = z + 8 + 0.35 * y + wobble
    along = relu(-28 - y) ** 2 + relu(y - 34) ** 2
    cleft = height**2 + relu(38 - side) ** 2 + along
    insula = (side - 37 - 1.2 * wobble) ** 2 + relu(np.abs(height) - 11) ** 2 + along
    return np.asarray(np.sqrt(np.minimum(cleft, insula)), np.float32)


def deep_grey_depth(p: tuple[Field, Field, Field]) -> Field:
    """Depth (mm) in thalamus, caudate nucleus and putamen."""
    side = (np.abs(p[0]), p[1], p[2])
    thalamus = _ellipsoid(side, (11.5, -11.0, 2.0), (9.0, 15.0, 9.0))
    caudate = _ellipsoid(side, (13.0, 20.0, 4.0), (4.5, 11.0, 9.0))
    tail = _tube(side, [(13, 16, 10, 3.0), (17, -10, 19, 1.8), (24, -28, 15, 1.2)])
    putamen = _ellipsoid(side, (26.0, 4.0, -1.0), (5.5, 18.0, 10.0))
    return np.maximum(np.maximum(thalamus, caudate), np.maximum(tail, putamen))
