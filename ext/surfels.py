"""Areas of surface elements: the piece of surface inside a cube of 2 × 2 × 2 voxel centres, by which are inside.

Marching cubes, derived here from its geometry: the surface crosses cube edges half-way between an inside and an
outside corner. On a face with two diagonal inside corners the rarer kind of corner of the cube is cut off. A polygon
of more than three corners is cut into triangles so that its area in the unit cube is largest. With these two choices
the areas are those of DeepMind's surface-distance, and so of the BraTS-2023 metrics; tests compare all 256.
"""

from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

_Vector = npt.NDArray[np.float64]
_Corner = tuple[int, int, int]


@lru_cache(maxsize=16)
def surfel_areas(spacing_mm: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Area in mm² (256,) of the surface element of each code, for a voxel spacing in mm.

    Bit 4x + 2y + z of a code says whether corner (x, y, z) of the cube is inside.
    The array is kept and cannot be written.
    """
    sx, sy, sz = spacing_mm
    numbers, normals = _triangle_normals()
    areas = np.zeros(256)
    np.add.at(areas, numbers, np.linalg.norm(normals * (sy * sz, sx * sz, sx * sy), axis=1))
    areas.flags.writeable = False
    return areas


@cache
def _triangle_normals() -> tuple[npt.NDArray[np.intp], _Vector]:
    """Codes (n,) and area vectors (n, 3) in the unit cube of all triangles of all codes."""
    found = [(code, normal) for code in range(256) for loop in _loops(code) for normal in _largest(loop)[1]]
    return np.array([code for code, _ in found]), np.array([normal for _, normal in found])


def _loops(code: int) -> Iterator[list[_Vector]]:
    """Closed polygons in which the surface cuts the unit cube."""
    inside = {(k >> 2, k >> 1 & 1, k & 1): bool(code >> k & 1) for k in range(8)}
    cut_off = code.bit_count() <= 4  # the rarer kind of corner
    links: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    for axis in range(3):
        for side in (0, 1):
            for a, b in _face_segments([_on_face(axis, side, i, j) for i, j in _RING], inside, cut_off):
                links.setdefault(a, []).append(b)
                links.setdefault(b, []).append(a)
    while links:
        start, (nearby, _) = next(iter(links.items()))
        loop, at = [start], nearby
        while at != start:
            first, second = links.pop(at)
            loop, at = [*loop, at], second if first == loop[-1] else first
        del links[start]
        yield [np.array(place) for place in loop]


_RING = ((0, 0), (1, 0), (1, 1), (0, 1))


def _on_face(axis: int, side: int, i: int, j: int) -> _Corner:
    corner = [i, j]
    corner.insert(axis, side)
    return corner[0], corner[1], corner[2]


def _face_segments(
    ring: list[_Corner], inside: dict[_Corner, bool], cut_off: bool
) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Segments between edge midpoints that separate inside from outside on one face, its corners in ring order."""
    middles = [tuple((p + q) / 2 for p, q in zip(ring[k - 1], ring[k], strict=True)) for k in range(4)]
    crossed = [k for k in range(4) if inside[ring[k - 1]] != inside[ring[k]]]
    if len(crossed) == 2:
        return [(middles[crossed[0]], middles[crossed[1]])]
    if len(crossed) == 4:
        return [(middles[k], middles[(k + 1) % 4]) for k in range(4) if inside[ring[k]] == cut_off]
    return []


def _largest(polygon: list[_Vector]) -> tuple[float, list[_Vector]]:
    """The largest area of a triangulation of the polygon, and its triangles' area vectors."""
    if len(polygon) < 3:
        return 0.0, []
    first, last = polygon[0], polygon[-1]
    best: tuple[float, list[_Vector]] = (-1.0, [])
    for k in range(1, len(polygon) - 1):  # the triangle on the side from last to first has its tip at k
        normal = np.cross(polygon[k] - first, last - first) / 2
        left, right = _largest(polygon[: k + 1]), _largest(polygon[k:])
        area = float(np.linalg.norm(normal)) + left[0] + right[0]
        if area > best[0] + 1e-9:
            best = (area, [normal, *left[1], *right[1]])
    return best
